import {
  chmodSync,
  existsSync,
  linkSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statfsSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { type Clock, sleep } from "#kernel/clock.ts";
import { identify, type ProcessIdentity, stillRuns } from "./process-identity.ts";
import { StartError, systemErrorCode } from "./start-error.ts";

/** A fresh database takes 60 MB, its write-ahead log and the logs the rest. */
const neededMegabytes = 300;
/** How long the children of a killed `up` may take to drain. */
const orphanPatienceMs = 30_000;

interface LockContent extends ProcessIdentity {
  readonly children: readonly (ProcessIdentity & { readonly name: string })[];
}

/** The folder of one local mesh, held by this process until `release`. */
export interface StateFolder {
  readonly dir: string;
  path(...parts: string[]): string;
  /** Writes down which children run, so that a start after a crash of ours can wait for their end. */
  rememberChildren(children: readonly { readonly name: string; readonly pid: number }[]): void;
  release(): void;
}

/** Makes the folder if it is missing and takes it. Throws a StartError when another `up` has it or it is no use. */
export async function openStateFolder(
  dir: string,
  parts: { readonly clock: Clock; readonly onWait: (text: string) => void; readonly signal: AbortSignal },
): Promise<StateFolder> {
  const lockFile = join(dir, "up.json");
  prepare(dir);
  const left = takeLock(dir, lockFile);
  const folder: StateFolder = {
    dir,
    path: (...names) => join(dir, ...names),
    rememberChildren(children) {
      const identified = children.flatMap(({ name, pid }) => {
        const identity = identify(pid);
        return identity ? [{ name, ...identity }] : [];
      });
      writeAtomically(lockFile, lockText(identified));
    },
    release: () => rmSync(lockFile, { force: true }),
  };
  try {
    rmSync(join(dir, "run.json"), { force: true });
    await waitForOrphans(left, parts);
  } catch (error) {
    folder.release();
    throw error;
  }
  return folder;
}

/** A reader sees the old content or the new, never a part. */
export function writeAtomically(file: string, text: string, mode = 0o644): void {
  const temporary = `${file}.${process.pid}.tmp`;
  writeFileSync(temporary, text, { mode });
  renameSync(temporary, file);
}

function prepare(dir: string): void {
  try {
    // The control plane's database may run as another user, who must be able to pass through.
    makeFolder(join(dir, "logs"));
    const probe = join(dir, `.probe-${process.pid}`);
    writeFileSync(probe, "");
    chmodSync(probe, 0o600);
    rmSync(probe);
  } catch (error) {
    throw new StartError(`The state folder ${dir} cannot be used: ${whyUnusable(error)}`, { cause: error });
  }
  const { bavail, bsize } = statfsSync(dir);
  const freeMegabytes = Math.floor((bavail * bsize) / 1e6);
  if (freeMegabytes < neededMegabytes) {
    throw new StartError(
      `Only ${freeMegabytes} MB are free where the state folder ${dir} lies; the mesh needs ${neededMegabytes} MB. ` +
        "Free some space, or choose another place with --state DIR.",
    );
  }
}

/** Level by level: Node's own recursive way never ends where no folder can be made, such as below /proc. */
function makeFolder(dir: string): void {
  if (existsSync(dir) && statSync(dir).isDirectory()) return;
  const parent = dirname(dir);
  if (parent !== dir) makeFolder(parent);
  mkdirSync(dir, { mode: 0o755 });
}

function whyUnusable(error: unknown): string {
  const advice = "choose another with --state DIR.";
  switch (systemErrorCode(error)) {
    case "EACCES":
    case "EPERM":
      return `this user may not write there. Change its owner or ${advice}`;
    case "EROFS":
      return `its file system is read-only; ${advice}`;
    case "ENOENT":
      return `no folder can be made there; ${advice}`;
    case "ENOTDIR":
    case "EEXIST":
      return `a part of that path is a file; ${advice}`;
    case "ENOSPC":
      return `the disk is full. Free some space or ${advice}`;
    default:
      return `${error instanceof Error ? error.message : String(error)}; ${advice}`;
  }
}

/** Returns the children that a killed holder left behind. */
function takeLock(dir: string, lockFile: string): LockContent["children"] {
  const mine = `${lockFile}.${process.pid}.tmp`;
  let left: LockContent["children"] = [];
  writeFileSync(mine, lockText([]));
  try {
    for (let attempt = 0; attempt < 5; attempt++) {
      try {
        linkSync(mine, lockFile); // Unlike a write, a link fails when the name exists.
        return left;
      } catch (error) {
        if (systemErrorCode(error) !== "EEXIST") throw error;
      }
      const holder = readLock(lockFile);
      if (holder && stillRuns(holder)) {
        throw new StartError(
          `Process ${holder.pid} already runs a mesh with the state folder ${dir}. Stop it (kill ${holder.pid}), or run ` +
            "a second mesh with another folder and ports: --state DIR --router-port 0 --control-port 0 --agent-port 0 --admin-port-base 0.",
        );
      }
      left = holder?.children ?? [];
      rmSync(lockFile, { force: true });
    }
    throw new StartError(`${lockFile} changes all the time: is another mesh being started in the same folder?`);
  } finally {
    rmSync(mine, { force: true });
  }
}

function lockText(children: LockContent["children"]): string {
  return JSON.stringify({ ...identify(process.pid), children });
}

/** Undefined for a file that is gone or was cut short by a full disk. */
function readLock(file: string): LockContent | undefined {
  try {
    const content: Partial<LockContent> = JSON.parse(readFileSync(file, "utf8"));
    const { pid, started, children } = content;
    if (typeof pid !== "number" || typeof started !== "string" || !Array.isArray(children)) return undefined;
    return { pid, started, children };
  } catch {
    return undefined;
  }
}

async function waitForOrphans(
  left: LockContent["children"],
  { clock, onWait, signal }: Parameters<typeof openStateFolder>[1],
): Promise<void> {
  const untilMs = clock.monotonicMs() + orphanPatienceMs;
  for (;;) {
    const alive = left.filter(stillRuns);
    if (alive.length === 0 || signal.aborted) return;
    const names = alive.map(({ name, pid }) => `${name} (pid ${pid})`).join(", ");
    if (clock.monotonicMs() >= untilMs) {
      throw new StartError(
        `Processes of an earlier run still hold the state folder: ${names}. End them: kill ${alive.map((c) => c.pid).join(" ")}`,
      );
    }
    onWait(`Waiting for processes of an earlier run to end: ${names}`);
    await sleep(clock, 200, signal);
  }
}

import { chmodSync, renameSync, rmSync, statfsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Clock, sleep } from "#kernel/clock.ts";
import { type LockContent, lockText, takeLockFile } from "#kernel/lock-file.ts";
import { makeFolder } from "#kernel/make-folder.ts";
import { type ProcessIdentity, identify, stillRuns } from "#kernel/process-identity.ts";
import { StartError, systemErrorCode } from "./start-error.ts";

/** A fresh database takes 60 MB, its write-ahead log and the logs the rest. */
const neededMegabytes = 300;
/** How long the children of a killed `up` may take to drain. */
const orphanPatienceMs = 30_000;

type Child = ProcessIdentity & { readonly name: string };

/** The folder of one local mesh, held by this process until `release`. */
export interface StateFolder {
  readonly dir: string;
  path(...parts: string[]): string;
  /** Writes down which children run, so that a start after a crash of ours can wait for their end. */
  rememberChildren(children: readonly { readonly name: string; readonly pid: number }[]): void;
  release(): Promise<void>;
}

/** Makes the folder if it is missing and takes it. Throws a StartError when another `up` has it or it is no use. */
export async function openStateFolder(
  dir: string,
  parts: { readonly clock: Clock; readonly onWait: (text: string) => void; readonly signal: AbortSignal },
): Promise<StateFolder> {
  const lockFile = join(dir, "up.json");
  await prepare(dir);
  const lock = await takeLockFile(lockFile, { children: [] });
  if (lock.kind === "held") {
    throw new StartError(
      `Process ${lock.pid} already runs a mesh with the state folder ${dir}. Stop it (kill ${lock.pid}), or run ` +
        "a second mesh with another folder and ports: --state DIR --router-port 0 --control-port 0 --agent-port 0 --admin-port-base 0.",
    );
  }
  const folder: StateFolder = {
    dir,
    path: (...names) => join(dir, ...names),
    rememberChildren(children) {
      const identified = children.flatMap(({ name, pid }) => {
        const identity = identify(pid);
        return identity ? [{ name, ...identity }] : [];
      });
      writeAtomically(lockFile, lockText({ children: identified }));
    },
    release: lock.release,
  };
  try {
    rmSync(join(dir, "run.json"), { force: true });
    await waitForOrphans(childrenOf(lock.left), parts);
  } catch (error) {
    await folder.release();
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

async function prepare(dir: string): Promise<void> {
  try {
    // The control plane's database may run as another user, who must be able to pass through.
    await makeFolder(join(dir, "logs"), 0o755);
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

/** What a killed holder wrote down of its children; none for a lock of another form. */
function childrenOf(left: LockContent | undefined): readonly Child[] {
  const children = left?.["children"];
  return Array.isArray(children) ? children.filter(isChild) : [];
}

function isChild(value: unknown): value is Child {
  if (typeof value !== "object" || value === null) return false;
  const { pid, started, name } = value as Record<string, unknown>;
  return typeof pid === "number" && typeof started === "string" && typeof name === "string";
}

async function waitForOrphans(
  left: readonly Child[],
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

import { constants } from "node:fs";
import { link, open, readFile, rename, rm, unlink, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { type Clock, sleep } from "#kernel/clock.ts";
import { newId } from "#kernel/random.ts";
import type { Logger } from "#kernel/log.ts";
import { isAlive, isPostgresOf, processIdentity } from "./process-identity.ts";

/** `owner.json` beside the data folder: which process runs the server, so that a second one does not. */
interface Owner {
  readonly pid: number;
  readonly identity: string;
  /** A socket folder outside the state folder, to be removed when the owner could not. */
  readonly socketDir: string;
}

export interface Claim {
  release(): Promise<void>;
}

export interface ClaimOptions {
  readonly dir: string;
  readonly dataDir: string;
  readonly socketDir: string;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** Prefix of socket folders made in the system's temporary folder. */
export const socketDirPrefix = "helixmesh-pg-";
const orphanStopMs = 60_000;

/**
 * Makes this process the one that runs a server in `dir`. Throws when another living process does. What a killed owner
 * left is cleared up: its server, should it still run, is stopped in order (it flushes and ends within moments).
 */
export async function claim({ dir, dataDir, socketDir, clock, logger }: ClaimOptions): Promise<Claim> {
  const path = join(dir, "owner.json");
  const identity = (await processIdentity(process.pid)) ?? "unknown";
  const mine: Owner = { pid: process.pid, identity, socketDir };
  const draft = join(dir, newId("owner"));
  await writeFile(draft, JSON.stringify(mine), { mode: 0o600 });
  try {
    while (!(await linked(draft, path))) {
      const other = await readOwner(path);
      if (other && (await processIdentity(other.pid)) === other.identity) {
        throw new Error(
          `Process ${other.pid} already runs the database in ${dir}. Stop it, or give this one another state folder (--state).`,
        );
      }
      if (other && other.socketDir !== socketDir && basename(other.socketDir).startsWith(socketDirPrefix)) {
        await rm(other.socketDir, { recursive: true, force: true });
      }
      await removeStale(path, other);
    }
  } finally {
    await unlink(draft);
  }
  try {
    await stopOrphan(dataDir, clock, logger);
  } catch (error) {
    await rm(path, { force: true });
    throw error;
  }
  return { release: () => rm(path, { force: true }) };
}

/** Atomic: the file appears whole or not at all, for one of several that try. */
async function linked(draft: string, path: string): Promise<boolean> {
  try {
    await link(draft, path);
    return true;
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "EEXIST") return false;
    throw error;
  }
}

/** Two that start at once may both see a stale file: the slower one must not take away what the faster one put there. */
async function removeStale(path: string, seen: Owner | undefined): Promise<void> {
  const aside = `${path}.${newId("stale")}`;
  try {
    await rename(path, aside);
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return;
    throw error;
  }
  const taken = await readOwner(aside);
  if (taken && (taken.pid !== seen?.pid || taken.identity !== seen.identity)) await linked(aside, path);
  await rm(aside, { force: true });
}

async function readOwner(path: string): Promise<Owner | undefined> {
  try {
    const parsed: unknown = JSON.parse(await readFile(path, "utf8"));
    if (typeof parsed !== "object" || parsed === null || !("pid" in parsed) || !("identity" in parsed))
      return undefined;
    const socketDir = "socketDir" in parsed ? String(parsed.socketDir) : "";
    return { pid: Number(parsed.pid), identity: String(parsed.identity), socketDir };
  } catch {
    // Gone in this moment, or damaged by a crash of the machine: nobody's in both cases.
    return undefined;
  }
}

async function stopOrphan(dataDir: string, clock: Clock, logger: Logger): Promise<void> {
  const path = join(dataDir, "postmaster.pid");
  const pid = await readPid(path);
  if (pid === undefined || !isAlive(pid)) return;
  if (!(await isPostgresOf(pid, dataDir))) {
    // A restarted machine or container gave the number to another process, and PostgreSQL would refuse to start. It
    // takes its parent's number as stale, and still checks by the rest of the file that nothing uses the data.
    await replaceFirstLine(path, String(process.pid));
    return;
  }
  logger.warn("stopping the database server that a killed control plane left", { pid, dir: dirname(dataDir) });
  const startedMs = clock.monotonicMs();
  signal(pid, "SIGINT");
  while (isAlive(pid) && (await isPostgresOf(pid, dataDir))) {
    if (clock.monotonicMs() - startedMs > orphanStopMs) {
      throw new Error(`The database server (process ${pid}) in ${dataDir} does not stop. End it, then start again.`);
    }
    await sleep(clock, 20);
  }
}

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch (error) {
    if (isAlive(pid))
      throw new Error(`May not stop the database server (process ${pid}): run as its user.`, { cause: error });
  }
}

async function readPid(path: string): Promise<number | undefined> {
  try {
    const pid = Number.parseInt(await readFile(path, "utf8"), 10);
    return pid > 0 ? pid : undefined;
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return undefined;
    throw error;
  }
}

/** In place, without following a link: the folder belongs to a user with fewer rights than ours. */
async function replaceFirstLine(path: string, line: string): Promise<void> {
  const file = await open(path, constants.O_RDWR | constants.O_NOFOLLOW);
  try {
    const text = await file.readFile("utf8");
    const changed = text.replace(/^[^\n]*/, line);
    await file.truncate(0);
    await file.write(changed, 0);
  } finally {
    await file.close();
  }
}

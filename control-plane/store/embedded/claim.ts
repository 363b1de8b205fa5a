import { constants } from "node:fs";
import { open, readFile, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { type Clock, sleep } from "#kernel/clock.ts";
import { takeLockFile } from "#kernel/lock-file.ts";
import type { Logger } from "#kernel/log.ts";
import { isAlive } from "#kernel/process-identity.ts";
import { isPostgresOf } from "./postgres-process.ts";

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
  // owner.json, beside the data folder. The socket folder may lie outside, so the next owner must be told of it.
  const lock = await takeLockFile(join(dir, "owner.json"), { socketDir });
  if (lock.kind === "held") {
    throw new Error(
      `Process ${lock.pid} already runs the database in ${dir}. Stop it, or give this one another state folder (--state).`,
    );
  }
  const leftDir = lock.left?.["socketDir"];
  try {
    if (typeof leftDir === "string" && leftDir !== socketDir && basename(leftDir).startsWith(socketDirPrefix)) {
      await rm(leftDir, { recursive: true, force: true });
    }
    await stopOrphan(dataDir, clock, logger);
  } catch (error) {
    await lock.release();
    throw error;
  }
  return lock;
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

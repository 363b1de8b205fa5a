import { type ChildProcess, spawn } from "node:child_process";
import { rm, access, constants } from "node:fs/promises";
import { join, resolve } from "node:path";
import postgres from "postgres";
import type { Clock } from "#kernel/clock.ts";
import type { Logger } from "#kernel/log.ts";
import { type Supervised, supervise } from "#kernel/supervise.ts";
import { makeFolder } from "#kernel/make-folder.ts";
import { type Account, chooseAccount, isReachable, readPasswd } from "./embedded/account.ts";
import { type PostgresBinaries, findBinaries } from "./embedded/binaries.ts";
import { claim } from "./embedded/claim.ts";
import { type DataFolder, asAccount, dataOwner, openDataFolder, serverEnvironment } from "./embedded/data-folder.ts";
import { createServerLog, explainFailure, readyLine } from "./embedded/server-log.ts";
import { chooseSocketFolder, makeSocketFolder, socketPort } from "./embedded/socket-folder.ts";

/**
 * A PostgreSQL server as a child of this process, its files in `dir`:
 *
 *     dir/data        the database, owned by the server's user (another one only when we are root)
 *     dir/socket      the socket's folder, unless its path would be too long or is closed to that user
 *     dir/programs    a private copy of PostgreSQL, only when the installed one cannot be used in place
 *     dir/owner.json  the process that runs the server
 *
 * The server leaves our process group, so that Ctrl-C ends it after us and not with us; a watchdog ends it when we are
 * killed. It is restarted with back-off when it dies.
 */
export interface EmbeddedPostgres {
  readonly socketDir: string;
  readonly port: number;
  readonly database: string;
  readonly user: string;
  /** Undefined between an exit and the restart. */
  readonly pid: number | undefined;
  /** Ends sessions, writes all to disk, exits. Idempotent. */
  stop(): Promise<void>;
}

export interface EmbeddedPostgresOptions {
  readonly dir: string;
  readonly logger: Logger;
  readonly clock: Clock;
  /** Server settings over ours, such as fsync=off for tests. */
  readonly serverSettings?: Readonly<Record<string, string>>;
  /** How long a start may take; recovery after a crash is part of it. Default 300,000. */
  readonly startTimeoutMs?: number;
  /** Where the PostgreSQL package is; found unless given. */
  readonly packageDir?: string;
  /** Where under root a private copy of the programs may go. Default /var/cache/helixmesh, then /var/tmp/helixmesh. */
  readonly sharedCopyDirs?: readonly string[];
}

const superuser = "helixmesh";
const databaseName = "helixmesh";
const stopTimeoutMs = 30_000;

const defaultServerSettings: Readonly<Record<string, string>> = {
  listen_addresses: "",
  unix_socket_permissions: "0700",
  max_connections: "40",
  shared_buffers: "64MB",
  max_wal_size: "256MB",
  // Nobody replicates from here.
  wal_level: "minimal",
  max_wal_senders: "0",
  fsync: "on",
  timezone: "UTC",
  log_timezone: "UTC",
  log_line_prefix: "",
  // Neither statements nor the values in an error's detail belong in a log.
  log_min_error_statement: "panic",
  log_error_verbosity: "terse",
  lc_messages: "C",
  cluster_name: "helixmesh",
};

export async function startEmbeddedPostgres(options: EmbeddedPostgresOptions): Promise<EmbeddedPostgres> {
  const { logger, clock } = options;
  const dir = resolve(options.dir);
  await makeStateFolder(dir);
  const account = chooseAccount(process.getuid?.(), await dataOwner(dir), await readPasswd());
  const binaries = await findBinaries({
    account,
    copyDirs: await copyDirs(dir, account, options.sharedCopyDirs ?? ["/var/cache/helixmesh", "/var/tmp/helixmesh"]),
    logger,
    ...(options.packageDir !== undefined && { packageDir: options.packageDir }),
  });
  const socketDir = await chooseSocketFolder(dir, account);
  const ours = await claim({ dir, dataDir: join(dir, "data"), socketDir, clock, logger });
  let supervised: Supervised | undefined;
  let stopping: Promise<void> | undefined;

  async function stop(): Promise<void> {
    // Fast shutdown: sessions end, everything is flushed.
    await supervised?.stop("SIGINT", stopTimeoutMs);
    await rm(socketDir, { recursive: true, force: true });
    await ours.release();
  }

  try {
    await makeSocketFolder(socketDir, account);
    const data = await openDataFolder({ dir, account, binaries, superuser, logger });
    supervised = await startServer(options, { binaries, data, account, socketDir });
    await createDatabase(socketDir);
    logger.info("the embedded PostgreSQL is ready", { dir, user: account?.name });
  } catch (error) {
    await stop();
    throw error;
  }
  const running = supervised;
  return {
    socketDir,
    port: socketPort,
    database: databaseName,
    user: superuser,
    get pid() {
      return running.child?.pid;
    },
    stop: () => (stopping ??= stop()),
  };
}

interface ServerParts {
  readonly binaries: PostgresBinaries;
  readonly data: DataFolder;
  readonly account: Account | undefined;
  readonly socketDir: string;
}

/** Resolves when the server takes connections; rejects with an explanation when it ends before. */
function startServer(options: EmbeddedPostgresOptions, parts: ServerParts): Promise<Supervised> {
  const { logger, clock, startTimeoutMs = 300_000 } = options;
  const settings = { ...defaultServerSettings, unix_socket_directories: parts.socketDir, ...options.serverSettings };
  const args = [
    "-D",
    parts.data.argument,
    ...Object.entries(settings).flatMap(([name, value]) => ["-c", `${name}=${value}`]),
  ];

  return new Promise((resolveReady, reject) => {
    let ready = false;
    const log = createServerLog(logger, (line) => {
      if (ready || !line.includes(readyLine)) return;
      ready = true;
      timer.cancel();
      resolveReady(supervised);
    });
    const timer = clock.setTimer(startTimeoutMs, () => fail(`it was not ready after ${startTimeoutMs / 1000} s`));

    function fail(why: string): void {
      if (ready) return;
      ready = true;
      timer.cancel();
      const explained =
        log.tail().length > 0 ? explainFailure(log.tail(), parts.data.path) : `PostgreSQL did not start: ${why}`;
      void supervised.stop("SIGINT", stopTimeoutMs).then(() => reject(new Error(explained)), reject);
    }

    const supervised = supervise({
      name: "postgres",
      clock,
      logger,
      backoff: { initialMs: 100, maxMs: 2_000 },
      start() {
        const child = spawn(parts.binaries.postgres, args, {
          cwd: parts.data.path,
          env: serverEnvironment,
          stdio: ["ignore", "ignore", "pipe"],
          detached: true,
          ...asAccount(parts.account),
        });
        log.follow(child.stderr);
        watchOver(child, parts.account);
        return child;
      },
      onExit({ code, signal, error }) {
        // Sessions of a killed server take a moment to notice; the next attempt finds them gone.
        const transient = log
          .tail()
          .some((line) => /pre-existing shared memory block|lock file .* already exists/.test(line));
        // The end of its output may still be on its way.
        if (!transient) clock.setTimer(50, () => fail(error?.message ?? `it ended with ${signal ?? `status ${code}`}`));
        else log.clear();
      },
    });
  });
}

/** Ends the server, in order, when this process is gone, however it went: the watchdog reads a pipe that only we hold. */
function watchOver(child: ChildProcess, account: Account | undefined): void {
  if (child.pid === undefined) return;
  const watchdog = spawn("/bin/sh", ["-c", 'read -r _; kill -INT "$0"', String(child.pid)], {
    env: serverEnvironment,
    stdio: ["pipe", "ignore", "ignore"],
    detached: true,
    ...asAccount(account),
  });
  // Without a watchdog the next start finds the server and stops it.
  watchdog.on("error", () => {});
  watchdog.stdin.on("error", () => {});
  watchdog.unref();
  child.once("exit", () => {
    watchdog.kill("SIGKILL");
    watchdog.stdin.destroy();
  });
}

async function makeStateFolder(dir: string): Promise<void> {
  try {
    await makeFolder(dir, 0o700);
    await access(dir, constants.R_OK | constants.W_OK | constants.X_OK);
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new Error(
      `Cannot use ${dir} for the database: ${why}. Fix its permissions, or use another state folder (--state).`,
      {
        cause: error,
      },
    );
  }
}

async function copyDirs(dir: string, account: Account | undefined, shared: readonly string[]): Promise<string[]> {
  const inState = join(dir, "programs");
  if (!account) return [inState];
  return (await isReachable(dir, account)) ? [inState, ...shared] : [...shared];
}

async function createDatabase(socketDir: string): Promise<void> {
  const sql = postgres({ host: socketDir, port: socketPort, user: superuser, database: "postgres", max: 1 });
  try {
    const found = await sql`SELECT 1 FROM pg_database WHERE datname = ${databaseName}`;
    if (found.length === 0) await sql`CREATE DATABASE ${sql(databaseName)}`;
  } finally {
    await sql.end({ timeout: 5 });
  }
}

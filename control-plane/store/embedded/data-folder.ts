import { spawn } from "node:child_process";
import { chmod, chown, lstat, mkdir, readFile, rename, rm, statfs } from "node:fs/promises";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import type { Logger } from "#kernel/log.ts";
import { type Account, currentFolder, isReachable } from "./account.ts";
import type { PostgresBinaries } from "./binaries.ts";
import { explainFailure } from "./server-log.ts";

/** An empty database takes 40 MB and its first write-ahead logs 32 MB. */
const firstStartBytes = 128 * 1024 * 1024;
const startBytes = 32 * 1024 * 1024;

export interface DataFolder {
  /** Where it is. */
  readonly path: string;
  /** What the server is told after `-D`, started with `path` as its working folder. */
  readonly argument: string;
}

export interface DataFolderOptions {
  readonly dir: string;
  readonly account: Account | undefined;
  readonly binaries: PostgresBinaries;
  readonly superuser: string;
  readonly logger: Logger;
}

/** The environment of PostgreSQL's processes: nothing of ours, which may hold secrets. */
export const serverEnvironment = { LANG: "C", LC_ALL: "C", TZ: "UTC", PATH: "/usr/local/bin:/usr/bin:/bin" };

/** Whose folder it is; undefined before the first start. */
export async function dataOwner(dir: string): Promise<{ uid: number; gid: number } | undefined> {
  try {
    const { uid, gid } = await lstat(join(dir, "data"));
    return { uid, gid };
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return undefined;
    throw error;
  }
}

/** Makes the data folder on the first start, and checks it on every later one. */
export async function openDataFolder(options: DataFolderOptions): Promise<DataFolder> {
  const { dir, account, binaries, logger } = options;
  const path = join(dir, "data");
  const isNew = (await dataOwner(dir)) === undefined;
  await assertSpace(dir, isNew ? firstStartBytes : startBytes);
  if (isNew) await initialise(options, path);
  else await assertUsable(path, account, binaries, logger);
  return { path, argument: await argumentOf(path, account) };
}

/** Made under another name and renamed when whole: a start that was interrupted leaves nothing half done. */
async function initialise(
  { dir, account, binaries, superuser, logger }: DataFolderOptions,
  path: string,
): Promise<void> {
  logger.info("making a new database; this takes a second or two", { dir });
  const fresh = join(dir, "data.new");
  await rm(fresh, { recursive: true, force: true });
  await mkdir(fresh, { mode: 0o700 });
  if (account) await chown(fresh, account.uid, account.gid);
  const child = spawn(
    binaries.initdb,
    [
      `--pgdata=${await argumentOf(fresh, account)}`,
      `--username=${superuser}`,
      // No TCP port is opened, and the folder of the socket lets only its owner in.
      "--auth=trust",
      "--encoding=UTF8",
      "--no-locale",
      "--locale-provider=builtin",
      "--builtin-locale=C.UTF-8",
      "--no-instructions",
    ],
    { cwd: fresh, env: serverEnvironment, stdio: ["ignore", "pipe", "pipe"], ...asAccount(account) },
  );
  const ended = new Promise<number | null>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", resolve);
  });
  const [code, out, err] = await Promise.all([ended, text(child.stdout), text(child.stderr)]);
  if (code !== 0) {
    await rm(fresh, { recursive: true, force: true });
    throw new Error(explainFailure(`${out}\n${err}`.trim().split("\n"), path));
  }
  await rename(fresh, path);
}

async function assertUsable(
  path: string,
  account: Account | undefined,
  binaries: PostgresBinaries,
  logger: Logger,
): Promise<void> {
  const info = await lstat(path);
  if (!info.isDirectory()) throw new Error(`${path} is no folder. Move it away to start with an empty database.`);
  const uid = account?.uid ?? process.getuid?.();
  if (info.uid !== uid) {
    throw new Error(
      `${path} belongs to user id ${info.uid}, and the database server would run as user id ${uid}. Start as the user ` +
        `that made it, give it back with chown -R ${uid} ${path}, or use another state folder (--state).`,
    );
  }
  if ((info.mode & 0o777) !== 0o700) {
    logger.warn("the database folder was open to other users; closing it", {
      path,
      mode: (info.mode & 0o777).toString(8),
    });
    await chmod(path, 0o700);
  }
  let version: number;
  try {
    version = Number.parseInt(await readFile(join(path, "PG_VERSION"), "utf8"), 10);
  } catch (error) {
    throw new Error(
      `The data in ${path} is damaged (no readable PG_VERSION). Restore it from a backup, or move the folder away to start empty.`,
      {
        cause: error,
      },
    );
  }
  if (version !== binaries.major) {
    throw new Error(
      `${path} was made by PostgreSQL ${version}; this Helixmesh brings ${binaries.major}. Use the Helixmesh that made ` +
        `it, carry the data over with pg_dump and DATABASE_URL, or move the folder away to start empty.`,
    );
  }
}

/**
 * Under root the server is another user, who may be barred from a parent of the folder (such as /root). It is then
 * started in the folder and told of it as /proc/self/cwd, which leads there without a look at the parents.
 */
async function argumentOf(path: string, account: Account | undefined): Promise<string> {
  if (!account || (await isReachable(path, account))) return path;
  if (process.platform === "linux") return currentFolder;
  throw new Error(
    `PostgreSQL runs as user "${account.name}", who cannot enter ${path}. Use a state folder that this user can enter ` +
      `(--state), or start Helixmesh as another user than root.`,
  );
}

async function assertSpace(dir: string, neededBytes: number): Promise<void> {
  const { bavail, bsize } = await statfs(dir);
  const freeBytes = bavail * bsize;
  if (freeBytes >= neededBytes) return;
  const inMb = (bytes: number): string => `${Math.floor(bytes / 1024 / 1024)} MB`;
  throw new Error(
    `The disk that holds ${dir} has ${inMb(freeBytes)} free; the database needs at least ${inMb(neededBytes)} to start. ` +
      `Free some space, or use a state folder on another disk (--state).`,
  );
}

/** Options of `spawn`. */
export function asAccount(account: Account | undefined): { uid?: number; gid?: number } {
  return account ? { uid: account.uid, gid: account.gid } : {};
}

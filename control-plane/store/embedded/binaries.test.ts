import { chmod, lstat, mkdir, mkdtemp, readdir, readlink, rm, stat, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { silentLogger } from "#kernel/log.ts";
import type { Account } from "./account.ts";
import { type PostgresBinaries, findBinaries } from "./binaries.ts";

/** Somebody who may enter public folders only. */
const stranger: Account = { name: "stranger", uid: 54_321, gid: 54_321 };
/** What the npm package has, in small: an interrupted or planted copy is the same whatever the files hold. */
const files: readonly (readonly [string, number])[] = [
  ["native/bin/postgres", 0o755],
  ["native/bin/initdb", 0o755],
  ["native/lib/libpq.so.5.18", 0o755],
  ["native/lib/libpq.a", 0o644],
  ["native/lib/pkgconfig/libpq.pc", 0o644],
  ["native/share/postgresql/postgres.bki", 0o644],
];

let closed: string;
let packageDir: string;
let open: string;
beforeAll(async () => {
  closed = await mkdtemp(join(tmpdir(), "helixmesh-closed-"));
  packageDir = join(closed, "package");
  for (const [path, mode] of files) {
    await mkdir(dirname(join(packageDir, path)), { recursive: true });
    await writeFile(join(packageDir, path), path, { mode });
  }
  const links = [{ source: "native/lib/libpq.so.5.18", target: "native/lib/libpq.so.5" }];
  await writeFile(join(packageDir, "native", "pg-symlinks.json"), JSON.stringify(links));
  await writeFile(join(packageDir, "package.json"), JSON.stringify({ version: "18.4.0-test" }));
});
afterAll(() => rm(closed, { recursive: true, force: true }));
beforeEach(async () => {
  open = await mkdtemp(join(tmpdir(), "helixmesh-open-"));
  await chmod(open, 0o755);
  return () => rm(open, { recursive: true, force: true });
});

function find(account: Account | undefined, copyDirs: readonly string[]): Promise<PostgresBinaries> {
  return findBinaries({ account, copyDirs, logger: silentLogger, packageDir });
}

describe("the PostgreSQL programs", () => {
  test("are copied to where the server's user can read them, without what only builds need", async () => {
    const { postgres, initdb, major } = await find(stranger, [open]);
    expect(postgres.startsWith(open)).toBe(true);
    expect((await stat(initdb)).mode & 0o005).toBe(0o005);
    expect(major).toBe(18);
    const libraries = await readdir(join(dirname(dirname(postgres)), "lib"));
    expect(libraries.filter((name) => name.endsWith(".a"))).toEqual([]);
    expect(libraries).toContain("libpq.so.5");
  });

  test("are copied once, and again when a file of the copy is gone", async () => {
    const { postgres } = await find(stranger, [open]);
    const first = await lstat(dirname(dirname(postgres)));
    await find(stranger, [open]);
    expect((await lstat(dirname(dirname(postgres)))).ino).toBe(first.ino);
    await rm(postgres);
    await find(stranger, [open]);
    expect((await stat(postgres)).isFile()).toBe(true);
    expect(await readdir(open)).toHaveLength(1);
  });

  test("are copied whole when several processes do it at once", async () => {
    const found = await Promise.all([find(stranger, [open]), find(stranger, [open]), find(stranger, [open])]);
    expect(new Set(found.map((each) => each.postgres)).size).toBe(1);
    expect(await readdir(open)).toHaveLength(1);
  });

  test("are never taken from a folder that others can write to", async () => {
    const { postgres } = await find(stranger, [open]);
    await chmod(dirname(dirname(postgres)), 0o777);
    await expect(find(stranger, [open])).rejects.toThrow(/nobody else can write to.*plant programs/);
    await chmod(open, 0o777);
    await expect(find(stranger, [open])).rejects.toThrow(/nobody else can write to/);
  });

  test("come from the next folder when the first cannot serve; without any, the message names them all", async () => {
    const { postgres } = await find(stranger, [closed, open]);
    expect(postgres.startsWith(open)).toBe(true);
    await expect(find(stranger, [closed])).rejects.toThrow(
      new RegExp(`${closed}: user "stranger" cannot read it.*DATABASE_URL`),
    );
  });

  test("are copied anew where the copy's links lead back into the package", async () => {
    await find(undefined, []);
    const { postgres } = await find(stranger, [open]);
    const link = join(dirname(dirname(postgres)), "lib", "libpq.so.5");
    expect(await readlink(link)).toBe("libpq.so.5.18");
    await rm(link);
    await symlink(join(packageDir, "native", "lib", "libpq.so.5.18"), link);
    await find(stranger, [open]);
    expect(await readlink(link)).toBe("libpq.so.5.18");
  });

  test("are used in place by a user who can read them, with their library links made", async () => {
    const { postgres } = await find(undefined, []);
    expect(postgres.startsWith(packageDir)).toBe(true);
    expect((await lstat(join(packageDir, "native", "lib", "libpq.so.5"))).isSymbolicLink()).toBe(true);
  });
});

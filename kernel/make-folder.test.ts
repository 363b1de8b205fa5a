import { mkdtemp, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { makeFolder } from "#kernel/make-folder.ts";

test("makes a folder with its parents, twice and at once", async () => {
  const root = await mkdtemp(join(tmpdir(), "helixmesh-folder-"));
  const dir = join(root, "a/b/c");
  await Promise.all([makeFolder(dir, 0o700), makeFolder(dir, 0o700)]);
  await makeFolder(dir, 0o700);
  expect((await stat(dir)).isDirectory()).toBe(true);
  await rm(root, { recursive: true });
});

test("fails at once where no folder can be made", async () => {
  await expect(makeFolder("/dev/null/x/y", 0o700)).rejects.toThrow("/dev/null");
  await expect(makeFolder("/proc/helixmesh/x", 0o700)).rejects.toThrow(/ENOENT|EACCES|ENOTDIR|EPERM/);
});

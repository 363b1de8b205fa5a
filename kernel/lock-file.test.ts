import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { takeLockFile } from "#kernel/lock-file.ts";
import { identify } from "#kernel/process-identity.ts";

let dir: string;
let path: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), "helixmesh-lock-"));
  path = join(dir, "lock");
});
afterEach(() => rm(dir, { recursive: true, force: true }));

/** Of a process that never was: larger than any pid. */
const gone = { pid: 2 ** 22 + 1, started: "1" };

describe("a lock file", () => {
  test("is taken, named to the next who asks, and given back", async () => {
    const lock = await takeLockFile(path);
    expect(lock).toMatchObject({ kind: "taken", left: undefined });
    expect(await takeLockFile(path)).toEqual({ kind: "held", pid: process.pid });
    await (lock.kind === "taken" ? lock.release() : undefined);
    expect(await takeLockFile(path)).toMatchObject({ kind: "taken" });
  });

  test.each(["lock", "lock.next"])("has one holder among many that at once take over a dead one's %s", async (name) => {
    await writeFile(path, JSON.stringify(gone));
    await writeFile(join(dir, name), JSON.stringify(gone));
    const outcomes = await Promise.all(Array.from({ length: 50 }, () => takeLockFile(path)));
    expect(outcomes.filter(({ kind }) => kind === "taken")).toHaveLength(1);
    expect(await readdir(dir)).toEqual(["lock"]);
  });

  test("is another living process's until that one ends, and hands on what it wrote", async () => {
    const child = spawn(process.execPath, ["-e", "process.stdin.resume()"], { stdio: ["pipe", "ignore", "ignore"] });
    await once(child, "spawn");
    const holder = { ...identify(child.pid ?? 0), children: [7] };
    await writeFile(path, JSON.stringify(holder));
    expect(await takeLockFile(path)).toEqual({ kind: "held", pid: child.pid });
    child.kill("SIGKILL");
    await once(child, "exit");
    expect(await takeLockFile(path)).toMatchObject({ kind: "taken", left: holder });
  });

  test("is not a later process's with the same pid", async () => {
    await writeFile(path, JSON.stringify({ pid: process.pid, started: "long ago" }));
    expect(await takeLockFile(path)).toMatchObject({ kind: "taken" });
  });

  test.each(["", '{"pid": 1', "[]", '{"pid":"1","started":1}'])(
    "is taken over when it was damaged: %j",
    async (text) => {
      await writeFile(path, text);
      expect(await takeLockFile(path)).toMatchObject({ kind: "taken", left: undefined });
    },
  );
});

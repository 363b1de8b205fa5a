import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { systemClock } from "#kernel/clock.ts";
import { identify } from "#kernel/process-identity.ts";
import { openStateFolder } from "./state-folder.ts";

let root: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "helixmesh-state-"));
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

function open(dir: string, onWait: (text: string) => void = () => {}) {
  return openStateFolder(dir, { clock: systemClock, onWait, signal: new AbortController().signal });
}

describe("the state folder", () => {
  test("is made, taken, and given back", async () => {
    const dir = join(root, "a", "b");
    const state = await open(dir);
    expect(existsSync(join(dir, "logs"))).toBe(true);
    await state.release();
    await (await open(dir)).release();
  });

  test("cannot be taken twice, and the refusal says who has it", async () => {
    const state = await open(root);
    await expect(open(root)).rejects.toThrow(`Process ${process.pid} already runs a mesh`);
    await state.release();
  });

  test("is taken over from a process that is gone, with its stale run.json", async () => {
    writeFileSync(join(root, "up.json"), JSON.stringify({ pid: 2 ** 22 + 1, started: "1", children: [] }));
    writeFileSync(join(root, "run.json"), "{}");
    const state = await open(root);
    expect(existsSync(join(root, "run.json"))).toBe(false);
    await state.release();
  });

  test("is taken over from a lock file that was cut short", async () => {
    writeFileSync(join(root, "up.json"), '{"pid": 1');
    await (await open(root)).release();
  });

  test("waits for the children of a killed holder", async () => {
    const child = spawn(process.execPath, ["-e", "process.stdin.resume()"], { stdio: ["pipe", "ignore", "ignore"] });
    await once(child, "spawn");
    const children = [{ name: "router", ...identify(child.pid ?? 0) }];
    writeFileSync(join(root, "up.json"), JSON.stringify({ pid: 2 ** 22 + 1, started: "1", children }));
    const waits: string[] = [];
    const state = await open(root, (text) => {
      waits.push(text);
      child.kill("SIGKILL");
    });
    expect(waits[0]).toContain(`router (pid ${child.pid})`);
    await state.release();
  });

  test("is refused with advice when a part of the path is a file", async () => {
    writeFileSync(join(root, "file"), "");
    await expect(open(join(root, "file", "state"))).rejects.toThrow(/a part of that path is a file.*--state DIR/);
  });
});

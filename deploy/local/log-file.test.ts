import { appendFileSync, closeSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { LogFile, readableLogLine } from "./log-file.ts";

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "helixmesh-log-"));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

describe("LogFile", () => {
  test("keeps the log of the run before as one older file", () => {
    const path = join(dir, "a.log");
    const first = new LogFile(path);
    appendFileSync(first.path, "first run\n");
    const log = new LogFile(path);
    expect(readFileSync(`${path}.1`, "utf8")).toBe("first run\n");
    expect(log.size()).toBe(0);
  });

  test("moves its content away when it grows beyond its bound, and writers go on", () => {
    const path = join(dir, "a.log");
    const log = new LogFile(path, 10);
    appendFileSync(path, "more than ten bytes\n");
    log.bound();
    appendFileSync(path, "next\n");
    expect(log.lastLines(5)).toEqual(["next"]);
    expect(readFileSync(`${path}.1`, "utf8")).toBe("more than ten bytes\n");
  });

  test("reads only what is new, and only whole lines", () => {
    const log = new LogFile(join(dir, "a.log"));
    appendFileSync(log.path, "one\ntw");
    expect(log.readNew()).toBe("one\n");
    appendFileSync(log.path, "o\n");
    expect(log.readNew()).toBe("two\n");
    expect(log.readNew()).toBe("");
  });

  test("quotes messages without the frames of a stack", () => {
    const log = new LogFile(join(dir, "a.log"));
    appendFileSync(
      log.path,
      'Error: no such module\n    at Module._load (x.js:1:1)\n{"level":"info","message":"bye"}\n',
    );
    expect(log.lastLines(5)).toEqual(["Error: no such module", "info: bye"]);
  });
});

test("only the newest child is quoted", () => {
  const folder = mkdtempSync(join(tmpdir(), "helixmesh-log-"));
  const log = new LogFile(join(folder, "a.log"));
  appendFileSync(log.path, "the first child\n");
  closeSync(log.open());
  appendFileSync(log.path, "the second child\n");
  expect(log.lastLines(5)).toEqual(["the second child"]);
  rmSync(folder, { recursive: true });
});

test("a JSON log line reads as its level, message, error and causes", () => {
  const line = JSON.stringify({
    level: "error",
    message: "start failed",
    error: { message: "no database", cause: { message: "disk full" } },
  });
  expect(readableLogLine(line)).toBe("error: start failed: no database: disk full");
  expect(readableLogLine("plain text")).toBe("plain text");
});

import { closeSync, copyFileSync, existsSync, openSync, readSync, renameSync, statSync, truncateSync } from "node:fs";
import type { Clock } from "#kernel/clock.ts";

const defaultMaxBytes = 8 * 1024 * 1024;

/**
 * The log of one service: children append to it directly, so that they can still write when `up` was killed. At most
 * `maxBytes` and one older file of about that size.
 */
export class LogFile {
  readonly path: string;
  readonly #maxBytes: number;
  #shownBytes = 0;
  /** Where the output of the process that writes now begins. */
  #openedAt = 0;

  constructor(path: string, maxBytes = defaultMaxBytes) {
    this.path = path;
    this.#maxBytes = maxBytes;
    if (existsSync(path) && statSync(path).size > 0) renameSync(path, `${path}.1`);
    closeSync(openSync(path, "a"));
  }

  /** A descriptor for the output of a new child; the caller closes it. */
  open(): number {
    this.#openedAt = this.size();
    return openSync(this.path, "a");
  }

  size(): number {
    return statSync(this.path).size;
  }

  /** Bounds the file. The child's descriptor stays valid, and appends at the new end: lines in between may be lost. */
  bound(): void {
    if (this.size() <= this.#maxBytes) return;
    copyFileSync(this.path, `${this.path}.1`);
    truncateSync(this.path);
  }

  /** Text that was added since the last call, whole lines only. */
  readNew(): string {
    const size = this.size();
    if (size < this.#shownBytes) this.#shownBytes = 0;
    const text = this.#read(this.#shownBytes, Math.min(size, this.#shownBytes + 1024 * 1024));
    const whole = text.slice(0, text.lastIndexOf("\n") + 1);
    this.#shownBytes += Buffer.byteLength(whole);
    return whole;
  }

  /** The last lines of the newest child, for people: messages of JSON lines with their error, other lines as they are. */
  lastLines(count: number): string[] {
    const size = this.size();
    const from = this.#openedAt <= size ? this.#openedAt : 0; // Smaller again: the file was bounded in between.
    return (
      this.#read(Math.max(from, size - 64 * 1024), size)
        .split("\n")
        // Frames of a stack are for the log; its first line says what happened.
        .filter((line) => line.trim() !== "" && !/^ +at /.test(line))
        .slice(-count)
        .map(readableLogLine)
    );
  }

  #read(from: number, to: number): string {
    const buffer = Buffer.alloc(Math.max(0, to - from));
    const file = openSync(this.path, "r");
    try {
      return buffer.subarray(0, readSync(file, buffer, 0, buffer.length, from)).toString("utf8");
    } finally {
      closeSync(file);
    }
  }
}

/** `{"level":"error","message":"start failed","error":{…}}` → "error: start failed: port 1 is in use". */
export function readableLogLine(line: string): string {
  let entry: unknown;
  try {
    entry = JSON.parse(line);
  } catch {
    return line; // Not one of ours: output of a library or of Node itself.
  }
  const level = field(entry, "level");
  const message = field(entry, "message");
  if (typeof message !== "string") return line;
  const causes: string[] = [];
  for (let error = field(entry, "error"); error !== undefined; error = field(error, "cause")) {
    const text = typeof error === "string" ? error : field(error, "message");
    if (typeof text === "string" && !causes.includes(text)) causes.push(text);
  }
  return [`${typeof level === "string" ? level : "info"}: ${message}`, ...causes].join(": ");
}

function field(value: unknown, name: string): unknown {
  return typeof value === "object" && value !== null ? (value as Record<string, unknown>)[name] : undefined;
}

/** Calls `show` with new lines of each log, and bounds the files, until the returned function is called. */
export function tendLogs(
  logs: readonly { readonly name: string; readonly file: LogFile }[],
  clock: Clock,
  show: ((text: string) => void) | undefined,
): () => void {
  let ended = false;
  function tick(): void {
    if (ended) return;
    for (const { name, file } of logs) {
      const lines = show
        ? file
            .readNew()
            .split("\n")
            .filter((line) => line !== "")
        : [];
      for (const line of lines) show?.(`${name}  ${readableLogLine(line)}`);
      file.bound();
    }
    clock.setTimer(show ? 200 : 10_000, tick, { unref: true });
  }
  tick();
  return () => {
    tick();
    ended = true;
  };
}

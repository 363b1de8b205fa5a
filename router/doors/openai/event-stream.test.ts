import { describe, expect, test } from "vitest";
import { ManualClock } from "#kernel/clock.ts";
import { EventStream } from "./event-stream.ts";
import type { HttpResponse } from "./exchange.ts";

class FakeResponse implements HttpResponse {
  headersSent = false;
  full = false;
  destroyed = false;
  readonly written: string[] = [];
  readonly #listeners = { close: new Set<() => void>(), drain: new Set<() => void>() };

  writeHead(): void {
    this.headersSent = true;
  }
  write(chunk: string): boolean {
    this.written.push(chunk);
    return !this.full;
  }
  end(chunk = ""): void {
    this.written.push(chunk, "END");
  }
  destroy(): void {
    this.destroyed = true;
    this.emit("close");
  }
  on(event: "close" | "drain", listener: () => void): void {
    this.#listeners[event].add(listener);
  }
  emit(event: "close" | "drain"): void {
    for (const listener of this.#listeners[event]) listener();
  }
}

function start(full = false): {
  response: FakeResponse;
  stream: EventStream;
  clock: ManualClock;
  stalls: number[];
  rooms: number[];
} {
  const response = new FakeResponse();
  response.full = full;
  const clock = new ManualClock();
  const stalls: number[] = [];
  const onStall = (): void => void stalls.push(clock.nowMs());
  const rooms: number[] = [];
  const onRoom = (): void => void rooms.push(clock.nowMs());
  const stream = new EventStream(response, { headers: {}, clock, stallTimeoutMs: 1_000, onStall, onRoom });
  return { response, stream, clock, stalls, rooms };
}

const turn = (): Promise<void> => new Promise(setImmediate);

describe("an event stream", () => {
  test("says a comment only to a client that has read all before", async () => {
    const { response, stream } = start();
    expect(stream.comment("waiting")).toBe(true);
    expect(stream.comment("waiting still")).toBe(false);
    await turn();
    expect(response.written).toEqual([": waiting\n\n"]);
    response.full = true;
    stream.comment("on");
    await turn();
    stream.comment("and on");
    await turn();
    response.full = false;
    response.emit("drain");
    stream.comment("at last");
    await turn();
    expect(response.written).toEqual([": waiting\n\n", ": on\n\n", ": at last\n\n"]);
    stream.end("");
    stream.comment("too late");
    await turn();
    expect(response.written.at(-1)).toBe("END");
  });

  test("writes what came in one turn at once", async () => {
    const { response, stream } = start();
    stream.write("a");
    stream.write("b");
    expect(response.written).toEqual([]);
    await turn();
    stream.write("c");
    await turn();
    expect(response.written).toEqual(["ab", "c"]);
  });

  test("writes the end together with what is pending", () => {
    const { response, stream } = start();
    stream.write("a");
    stream.end("b");
    expect(response.written).toEqual(["ab", "END"]);
  });

  test("does not let a turn gather without bound", () => {
    const { response, stream } = start();
    stream.write("x".repeat(64 * 1024));
    expect(response.written).toHaveLength(1);
  });

  test("tells the writer to wait while the client does not read, and when it reads again", async () => {
    const { response, stream, clock, rooms } = start(true);
    expect(stream.write("a")).toBe(true);
    await turn();
    expect(stream.write("b")).toBe(false);
    expect(rooms).toHaveLength(0);
    response.emit("drain");
    expect(rooms).toHaveLength(1);
    expect(clock.pendingTimers).toBe(0);
  });

  test("cuts a client that reads nothing for too long", async () => {
    const { response, stream, clock, stalls } = start(true);
    stream.write("a");
    await turn();
    clock.advance(1_000);
    expect(stalls).toHaveLength(1);
    expect(response.destroyed).toBe(true);
  });

  test("sends nothing after the client went away", async () => {
    const { response, stream } = start();
    response.emit("close");
    stream.write("a");
    stream.end("b");
    await turn();
    expect(response.written).toEqual([]);
  });
});

import { EventEmitter } from "node:events";
import { describe, expect, test } from "vitest";
import { ManualClock } from "#kernel/clock.ts";
import { watchStopSignals } from "#kernel/stop-signals.ts";

describe("stop signals", () => {
  test("copies of one Ctrl-C count once", () => {
    const source = new EventEmitter();
    const clock = new ManualClock();
    const signals = watchStopSignals(source, clock);
    source.emit("SIGINT");
    clock.advance(100);
    source.emit("SIGINT");
    expect(signals.requested.aborted).toBe(true);
    expect(signals.forced.aborted).toBe(false);
  });

  test("a second Ctrl-C forces the end", () => {
    const source = new EventEmitter();
    const clock = new ManualClock();
    const signals = watchStopSignals(source, clock);
    source.emit("SIGINT");
    clock.advance(1_000);
    source.emit("SIGINT");
    expect(signals.forced.aborted).toBe(true);
  });

  test("the end of the process that started us asks to stop", () => {
    const source = new EventEmitter();
    const signals = watchStopSignals(source, new ManualClock());
    source.emit("disconnect");
    expect(signals.requested.reason).toBe("the end of the process that started this one");
  });
});

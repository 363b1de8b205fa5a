import { describe, expect, test } from "vitest";
import { ManualClock } from "#kernel/clock.ts";
import { coalesce } from "./coalesce.ts";

function start() {
  const clock = new ManualClock();
  const runs: (() => void)[] = [];
  const run = (): Promise<void> => new Promise((resolve) => void runs.push(resolve));
  const coalesced = coalesce({ run, clock, minGapMs: 10, intervalMs: 1_000 });
  const finish = async (index: number): Promise<void> => {
    runs[index]?.();
    await new Promise((resolve) => setImmediate(resolve));
  };
  return { clock, runs, coalesced, finish };
}

describe("coalescing", () => {
  test("many requests make one run, after the gap", () => {
    const { clock, runs, coalesced } = start();
    for (let i = 0; i < 5; i++) coalesced.trigger();
    expect(runs).toHaveLength(0);
    clock.advance(10);
    expect(runs).toHaveLength(1);
  });

  test("a request during a run makes one more run after it", async () => {
    const { clock, runs, coalesced, finish } = start();
    coalesced.trigger();
    clock.advance(10);
    coalesced.trigger();
    coalesced.trigger();
    clock.advance(500);
    expect(runs).toHaveLength(1);
    await finish(0);
    clock.advance(10);
    expect(runs).toHaveLength(2);
    await finish(1);
    clock.advance(999);
    expect(runs).toHaveLength(2);
  });

  test("without requests it runs at its interval", async () => {
    const { clock, runs, finish } = start();
    clock.advance(1_000);
    expect(runs).toHaveLength(1);
    await finish(0);
    clock.advance(1_000);
    expect(runs).toHaveLength(2);
  });

  test("requests never put a run off", () => {
    const { clock, runs, coalesced } = start();
    for (let i = 0; i < 10; i++) {
      coalesced.trigger();
      clock.advance(1);
    }
    expect(runs).toHaveLength(1);
  });

  test("closing waits for the run under way and starts no other", async () => {
    const { clock, runs, coalesced, finish } = start();
    coalesced.trigger();
    clock.advance(10);
    coalesced.trigger();
    const closed = coalesced.close();
    await finish(0);
    await closed;
    clock.advance(5_000);
    expect(runs).toHaveLength(1);
    expect(clock.pendingTimers).toBe(0);
  });
});

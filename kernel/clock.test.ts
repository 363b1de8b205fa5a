import { expect, test } from "vitest";
import { ManualClock, sleep, systemClock } from "#kernel/clock.ts";

test("a manual clock fires timers in the order they fall due, those set by callbacks included", () => {
  const clock = new ManualClock(0);
  const fired: [string, number][] = [];
  const note = (name: string) => fired.push([name, clock.nowMs()]);
  clock.setTimer(20, () => note("late"));
  clock.setTimer(10, () => {
    note("early");
    clock.setTimer(5, () => note("nested"));
  });
  clock.setTimer(30, () => note("never")).cancel();
  clock.advance(25);
  expect(fired).toEqual([
    ["early", 10],
    ["nested", 15],
    ["late", 20],
  ]);
  expect([clock.nowMs(), clock.pendingTimers]).toEqual([25, 0]);
});

test("a sleep ends when its time has come, or at once when aborted, and leaves no timer", async () => {
  const clock = new ManualClock();
  const slept = sleep(clock, 1_000);
  clock.advance(1_000);
  await slept;
  const stop = new AbortController();
  const cut = sleep(clock, 1_000, stop.signal);
  stop.abort();
  await cut;
  await sleep(clock, 1_000, stop.signal);
  expect(clock.pendingTimers).toBe(0);
});

test("the system clock fires, and not when cancelled or too far away", async () => {
  const fired = Promise.withResolvers<string>();
  systemClock.setTimer(0, () => fired.resolve("cancelled")).cancel();
  const far = systemClock.setTimer(Number.MAX_SAFE_INTEGER, () => fired.resolve("far"));
  systemClock.setTimer(5, () => fired.resolve("in time"));
  expect(await fired.promise).toBe("in time");
  far.cancel();
  expect(systemClock.monotonicMs()).toBeGreaterThan(0);
});

import { describe, expect, test } from "vitest";
import { ManualClock } from "#kernel/clock.ts";
import { ProgressPace } from "./progress-pace.ts";

function setUp() {
  const clock = new ManualClock(0);
  const replica = { progress: 0 };
  const told: [number, number][] = [];
  const pace = new ProgressPace(clock, () => void told.push([clock.nowMs(), replica.progress]));
  pace.restart(0);
  const move = (progress: number): void => {
    replica.progress = progress;
    pace.moved(progress);
  };
  return { clock, told, pace, move };
}

describe("a replica's progress", () => {
  test("is told four times a second at most, and the newest each time", () => {
    const { clock, told, move } = setUp();
    for (let step = 1; step <= 100; step++) {
      clock.advance(10);
      move(step / 100);
    }
    clock.advance(1_000);
    expect(told).toEqual([
      [250, 0.24],
      [500, 0.49],
      [750, 0.74],
      [1_000, 0.99],
      [1_250, 1],
    ]);
    expect(clock.pendingTimers).toBe(0);
  });

  test("is told at once after a pause, and not before it moved by a hundredth", () => {
    const { clock, told, move } = setUp();
    clock.advance(10_000);
    move(0.009);
    clock.advance(10_000);
    expect(told).toEqual([]);
    move(0.012);
    expect(told).toEqual([[20_000, 0.012]]);
    move(0.02);
    clock.advance(10_000);
    expect(told).toHaveLength(1);
  });

  test("is not told behind a state that came after it", () => {
    const { clock, told, pace, move } = setUp();
    move(0.5);
    pace.restart(0);
    clock.advance(10_000);
    expect(told).toEqual([]);
  });
});

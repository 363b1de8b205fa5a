import { describe, expect, test } from "vitest";
import { seededRandom } from "#kernel/random.ts";
import { Breaker } from "./breaker.ts";

function fail(breaker: Breaker, times: number, nowMs = 0): void {
  for (let time = 0; time < times; time++) breaker.failed(nowMs);
}

/** Open since 0. */
function opened(): Breaker {
  const breaker = new Breaker(seededRandom(1));
  fail(breaker, 5);
  return breaker;
}

describe("a breaker", () => {
  test("opens at the fifth failure in a row, and says so once", () => {
    const breaker = new Breaker(seededRandom(1));
    fail(breaker, 4);
    expect(breaker.mayTake(0)).toBe(true);
    expect(breaker.failed(0)).toBe(true);
    expect(breaker.mayTake(0)).toBe(false);
    expect(breaker.failed(0)).toBe(false);
  });

  test("stays closed where successes come between and fewer than half fail", () => {
    const breaker = new Breaker(seededRandom(1));
    for (let round = 0; round < 50; round++) {
      fail(breaker, 1);
      breaker.succeeded(0);
      breaker.succeeded(0);
    }
    expect(breaker.kind).toBe("closed");
  });

  test("opens when half of ten recent calls failed, though never five in a row", () => {
    const breaker = new Breaker(seededRandom(1));
    for (let round = 0; round < 5 && breaker.kind === "closed"; round++) {
      breaker.succeeded(0);
      fail(breaker, 1);
    }
    expect(breaker.kind).toBe("open");
  });

  test("forgets failures of long ago", () => {
    const breaker = new Breaker(seededRandom(1));
    for (let minute = 0; minute < 20; minute++) {
      fail(breaker, 2, minute * 60_000);
      breaker.succeeded(minute * 60_000);
    }
    expect(breaker.kind).toBe("closed");
  });

  test("lets one probe through after its time, and closes when that succeeds", () => {
    const breaker = opened();
    expect(breaker.mayTake(999)).toBe(false);
    expect(breaker.mayTake(2_000)).toBe(true);
    breaker.dispatched(2_000);
    expect(breaker.mayTake(2_000)).toBe(false);
    breaker.succeeded(2_100);
    expect(breaker.kind).toBe("closed");
    expect(breaker.mayTake(2_100)).toBe(true);
  });

  test("stays open for longer when the probe fails", () => {
    const breaker = opened();
    breaker.dispatched(2_000);
    fail(breaker, 1, 2_000);
    expect(breaker.mayTake(2_000 + 1_999)).toBe(false);
    expect(breaker.mayTake(2_000 + 4_000)).toBe(true);
  });

  test("takes a success of a call from before it opened as no news", () => {
    const breaker = opened();
    breaker.succeeded(100);
    expect(breaker.kind).toBe("open");
  });

  test("lets another probe through when one shows nothing: at once if it was abandoned, else after a while", () => {
    const breaker = opened();
    breaker.dispatched(2_000);
    breaker.abandoned(2_050);
    expect(breaker.mayTake(2_050)).toBe(true);
    breaker.dispatched(2_050);
    expect(breaker.mayTake(32_049)).toBe(false);
    expect(breaker.mayTake(32_050)).toBe(true);
  });
});

import { describe, expect, test } from "vitest";
import { LearnedLimit } from "./learned-limit.ts";

function ends(limit: LearnedLimit, times: number): void {
  for (let end = 0; end < times; end++) limit.ended();
}

describe("a learned limit", () => {
  test("is none until the replica refuses, then what ran at that time", () => {
    const limit = new LearnedLimit();
    ends(limit, 100);
    expect(limit.calls).toBe(Number.POSITIVE_INFINITY);
    limit.refused(8);
    expect(limit.calls).toBe(8);
  });

  test("falls with every refusal, but never below one call", () => {
    const limit = new LearnedLimit();
    for (let refusal = 0; refusal < 10; refusal++) limit.refused(4);
    expect(limit.calls).toBe(1);
    limit.refused(0);
    expect(limit.calls).toBe(1);
  });

  test("rises by one when as many calls as it allows have ended well, and is forgotten at its double", () => {
    const limit = new LearnedLimit();
    limit.refused(3);
    ends(limit, 2);
    expect(limit.calls).toBe(3);
    ends(limit, 1);
    expect(limit.calls).toBe(4);
    ends(limit, 4 + 5 + 6);
    expect(limit.calls).toBe(Number.POSITIVE_INFINITY);
  });
});

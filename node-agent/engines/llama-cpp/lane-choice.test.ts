import { describe, expect, test } from "vitest";
import { chooseLane } from "./lane-choice.ts";
import type { Plan } from "./plan.ts";

const plan = {} as Plan;
/** Free lanes by what they share and when they were used; "busy" ones run. */
const lanes = (...given: ("busy" | { usedAt: number; shared: number })[]) =>
  given.map((lane, index) => ({
    index,
    usedAt: lane === "busy" ? 0 : lane.usedAt,
    sequence: lane === "busy" ? {} : undefined,
    sharedPrefix: () => (lane === "busy" ? 0 : lane.shared),
  }));
const free = (usedAt: number, shared = 0) => ({ usedAt, shared });
const choice = (...given: Parameters<typeof lanes>) => {
  const chosen = chooseLane(lanes(...given), plan);
  return chosen && [chosen.lane.index, chosen.shared];
};

describe("chooseLane", () => {
  test("takes the lane used longest ago, so that prompts stay cached", () => {
    expect(choice(free(3), free(1), free(2))).toEqual([1, 0]);
    expect(choice(free(1), free(0), free(0))).toEqual([1, 0]);
  });

  test("takes a lane beside one that runs, so that no gap opens", () => {
    expect(choice(free(0), free(0), free(5), "busy", free(7), free(0))).toEqual([2, 0]);
    expect(choice(free(0), free(0), free(9), "busy", free(7), free(0))).toEqual([4, 0]);
  });

  test("takes the lane that holds most of the prompt, but not for a few tokens", () => {
    expect(choice(free(1, 5), free(2, 100), free(3, 101), "busy")).toEqual([2, 101]);
    expect(choice(free(1, 3), free(2, 18))).toEqual([0, 3]);
    expect(choice(free(1, 3), free(2, 19))).toEqual([1, 19]);
    expect(choice(free(1, 3), free(2, 19), free(3, 20))).toEqual([2, 20]);
  });

  test("has none while all run", () => {
    expect(choice("busy", "busy")).toBeUndefined();
  });
});

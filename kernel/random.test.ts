import { expect, test } from "vitest";
import { newId, randomInt, seededRandom, systemRandom } from "#kernel/random.ts";

test("one seed gives one sequence, another seed another", () => {
  const draw = (seed: number) => {
    const random = seededRandom(seed);
    return Array.from({ length: 5 }, () => random.next());
  };
  expect(draw(7)).toEqual(draw(7));
  expect(draw(7)).not.toEqual(draw(8));
});

test("draws are in range and reach all of it", () => {
  for (const random of [seededRandom(1), systemRandom]) {
    const seen = new Set(Array.from({ length: 500 }, () => randomInt(random, 4)));
    expect(seen).toEqual(new Set([0, 1, 2, 3]));
  }
});

test("ids are 128 bits behind their prefix and differ", () => {
  expect(newId("call")).toMatch(/^call_[0-9a-f]{32}$/);
  expect(new Set(Array.from({ length: 1_000 }, () => newId("call"))).size).toBe(1_000);
});

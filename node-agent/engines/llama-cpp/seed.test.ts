import { expect, test } from "vitest";
import { seedOfDraw } from "./seed.ts";

test("gives every position and seed a seed of its own, spread over 32 bits", () => {
  const seeds = new Set<number>();
  for (let seed = 0n; seed < 50n; seed++)
    for (let position = 0; position < 50; position++) seeds.add(seedOfDraw(seed, position));
  expect(seeds.size).toBe(2_500);
  const mean = [...seeds].reduce((sum, value) => sum + value, 0) / seeds.size / 2 ** 32;
  expect(mean).toBeGreaterThan(0.45);
  expect(mean).toBeLessThan(0.55);
});

test("uses all 64 bits of the call's seed", () => {
  expect(seedOfDraw(1n, 0)).not.toBe(seedOfDraw(1n + 2n ** 32n, 0));
});

test("gives the same on every machine", () => {
  expect([seedOfDraw(0n, 0), seedOfDraw(42n, 7)]).toEqual([737_882_419, 1_101_089_130]);
});

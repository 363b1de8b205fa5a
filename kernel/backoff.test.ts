import { expect, test } from "vitest";
import { Backoff } from "#kernel/backoff.ts";
import { seededRandom } from "#kernel/random.ts";

test("doubles up to its largest step, each delay between half and all of it", () => {
  const steps = [100, 200, 400, 500, 500];
  for (const [random, share] of [
    [0, 0.5],
    [1, 1],
  ] as const) {
    const backoff = new Backoff({ initialMs: 100, maxMs: 500 }, { next: () => random });
    expect(steps.map(() => backoff.nextMs())).toEqual(steps.map((step) => step * share));
  }
});

test("starts small again after a reset", () => {
  const backoff = new Backoff({ initialMs: 100, maxMs: 10_000 }, seededRandom(3));
  for (let attempt = 0; attempt < 5; attempt++) backoff.nextMs();
  backoff.reset();
  expect(backoff.nextMs()).toBeLessThanOrEqual(100);
});

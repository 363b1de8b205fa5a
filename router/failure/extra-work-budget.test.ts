import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { ExtraWorkBudget } from "./extra-work-budget.ts";

describe("a budget for extra work", () => {
  test("allows the floor when nothing happens, and again when time has passed", () => {
    const budget = new ExtraWorkBudget();
    expect(Array.from({ length: 5 }, () => budget.spend(20, 3, 0))).toEqual([true, true, true, false, false]);
    expect(budget.spend(20, 3, 60_000)).toBe(true);
  });

  test("allows a share of the calls of late", () => {
    const budget = new ExtraWorkBudget();
    for (let call = 0; call < 100; call++) budget.called(0);
    const allowed = Array.from({ length: 100 }, () => budget.spend(20, 0, 0)).filter(Boolean);
    expect(allowed).toHaveLength(20);
  });

  test("holds a storm in which every call fails and is retried to the share and the floor, at any pace", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 500 }), fc.integer({ min: 0, max: 50 }), (paceMs, floor) => {
        const budget = new ExtraWorkBudget();
        let retries = 0;
        const calls = 2_000;
        for (let call = 0; call < calls; call++) {
          budget.called(call * paceMs);
          while (budget.spend(20, floor, call * paceMs)) retries += 1;
        }
        // The floor comes back as time passes: what is in force decays with a time constant of 10 s / ln 2.
        const floors = floor * (1 + (calls * paceMs) / (10_000 / Math.LN2));
        expect(retries).toBeLessThanOrEqual(calls * 0.2 + floors + 1);
      }),
    );
  });
});

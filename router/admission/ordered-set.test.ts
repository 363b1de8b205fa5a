import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { OrderedSet } from "./ordered-set.ts";

describe("an ordered set", () => {
  test("agrees with a sorted array after any adds and deletes", () => {
    fc.assert(
      fc.property(fc.array(fc.nat(40), { maxLength: 200 }), (toggles) => {
        const set = new OrderedSet<number>((a, b) => a - b);
        const model = new Set<number>();
        for (const value of toggles) {
          if (model.delete(value)) set.delete(value);
          else {
            model.add(value);
            set.add(value);
          }
          const sorted = [...model].toSorted((a, b) => a - b);
          expect(set.size).toBe(sorted.length);
          expect(set.first()).toBe(sorted[0]);
          expect(set.last()).toBe(sorted.at(-1));
          expect(set.rank(20)).toBe(sorted.filter((one) => one < 20).length);
        }
      }),
    );
  });

  test("refuses to delete what it does not hold", () => {
    const set = new OrderedSet<number>((a, b) => a - b);
    set.add(1);
    expect(() => set.delete(2)).toThrow("holds");
  });

  test("stays shallow for values in order: 100,000 adds compare at most 60 times each on average", () => {
    let compared = 0;
    const set = new OrderedSet<number>((a, b) => {
      compared += 1;
      return a - b;
    });
    for (let value = 0; value < 100_000; value++) set.add(value);
    expect(compared / 100_000).toBeLessThan(60);
  });
});

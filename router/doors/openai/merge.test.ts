import { describe, expect, test } from "vitest";
import { merge } from "./merge.ts";

async function* counting(values: number): AsyncGenerator<number> {
  for (let value = 0; value < values; value++) {
    await new Promise(setImmediate);
    yield value;
  }
}

async function collect<T>(source: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const value of source) all.push(value);
  return all;
}

describe("merge", () => {
  test("yields everything, in order within a source", async () => {
    const all = await collect(merge([() => counting(2), () => counting(0), () => counting(3)], 2));
    const of = (index: number): number[] => all.filter(([source]) => source === index).map(([, value]) => value);
    expect([of(0), of(1), of(2)]).toEqual([[0, 1], [], [0, 1, 2]]);
  });

  test("runs no more sources at once than the limit", async () => {
    let running = 0;
    let most = 0;
    async function* source(): AsyncGenerator<number> {
      most = Math.max(most, ++running);
      yield* counting(2);
      running--;
    }
    await collect(
      merge(
        Array.from({ length: 10 }, () => source),
        3,
      ),
    );
    expect(most).toBe(3);
  });

  test("fails with the first failure", async () => {
    async function* failing(): AsyncGenerator<number> {
      yield 1;
      throw new Error("broken");
    }
    await expect(collect(merge([() => counting(5), failing], 2))).rejects.toThrow("broken");
  });
});

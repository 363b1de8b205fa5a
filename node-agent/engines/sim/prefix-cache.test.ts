import { describe, expect, test } from "vitest";
import { PrefixCache } from "./prefix-cache.ts";

const hashes = (...values: number[]) => Uint32Array.from(values);

describe("PrefixCache", () => {
  test("matches the beginning of a prompt only", () => {
    const cache = new PrefixCache(10);
    cache.hold(hashes(1, 2, 3));
    expect(cache.matched(hashes(1, 2, 9, 3))).toBe(2);
    expect(cache.matched(hashes(9, 2))).toBe(0);
    expect(cache.take()).toEqual({ added: [3, 2, 1], removed: [], cut: 0 });
  });

  test("lets go of what was used least recently, of one prompt its end first", () => {
    const cache = new PrefixCache(4);
    cache.hold(hashes(1, 2));
    cache.hold(hashes(5, 6));
    cache.hold(hashes(1, 2));
    cache.take();
    cache.hold(hashes(7));
    expect(cache.take()).toEqual({ added: [7], removed: [6], cut: 0 });
    expect(cache.matched(hashes(1, 2))).toBe(2);
  });

  test("holds no more than it may of one prompt, and says so", () => {
    const cache = new PrefixCache(2);
    cache.hold(hashes(1, 2, 3));
    expect(cache.matched(hashes(1, 2, 3))).toBe(2);
    expect(cache.take()?.cut).toBe(1);
  });
});

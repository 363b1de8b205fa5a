import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { type Price, effectivePrice, largestNanosPerToken } from "../prices/prices.ts";
import { type TokenCounts, costNanos } from "./cost.ts";

const largestCount = 2n ** 32n - 1n;
const count = fc.bigInt({ min: 0n, max: largestCount });
const nanos = fc.bigInt({ min: 0n, max: largestNanosPerToken });
const tokens: fc.Arbitrary<TokenCounts> = fc
  .record({ promptTokens: count, cachedTokens: count, completionTokens: count })
  .map((drawn) => ({ ...drawn, cachedTokens: drawn.cachedTokens % (drawn.promptTokens + 1n) }));
const price: fc.Arbitrary<Price> = fc.record({
  promptNanosPerToken: nanos,
  cachedNanosPerToken: nanos,
  completionNanosPerToken: nanos,
  effectiveAtMs: fc.constant(0),
});

describe("the cost of a call", () => {
  test("charges each kind of token at its own price", () => {
    const cost = costNanos(
      { promptTokens: 100n, cachedTokens: 40n, completionTokens: 7n },
      { promptNanosPerToken: 10n, cachedNanosPerToken: 1n, completionNanosPerToken: 30n, effectiveAtMs: 0 },
    );
    expect(cost).toBe(60n * 10n + 40n * 1n + 7n * 30n);
  });

  test("is never negative and always fits the ledger's 63 bits", () => {
    fc.assert(
      fc.property(tokens, price, (t, p) => {
        const cost = costNanos(t, p);
        return cost >= 0n && cost < 2n ** 63n;
      }),
    );
  });

  test("of two calls together is the sum of both, to the last nano-dollar", () => {
    fc.assert(
      fc.property(tokens, tokens, price, (a, b, p) => {
        const both: TokenCounts = {
          promptTokens: a.promptTokens + b.promptTokens,
          cachedTokens: a.cachedTokens + b.cachedTokens,
          completionTokens: a.completionTokens + b.completionTokens,
        };
        return costNanos(both, p) === costNanos(a, p) + costNanos(b, p);
      }),
    );
  });

  test("does not depend on the cache when cached tokens cost the same", () => {
    fc.assert(
      fc.property(tokens, price, (t, p) => {
        const flat = { ...p, cachedNanosPerToken: p.promptNanosPerToken };
        return costNanos(t, flat) === costNanos({ ...t, cachedTokens: 0n }, flat);
      }),
    );
  });
});

describe("the price in force", () => {
  test("is the newest that has begun, or none before the first", () => {
    const begun = fc
      .array(fc.integer({ min: 0, max: 1_000 }), { maxLength: 8 })
      .map((at) => [...new Set(at)].sort((a, b) => a - b));
    fc.assert(
      fc.property(begun, fc.integer({ min: 0, max: 1_000 }), (starts, atMs) => {
        const prices = starts.map((effectiveAtMs) => ({
          promptNanosPerToken: 0n,
          cachedNanosPerToken: 0n,
          completionNanosPerToken: 0n,
          effectiveAtMs,
        }));
        const expected = starts.filter((start) => start <= atMs).at(-1);
        expect(effectivePrice(prices, atMs)?.effectiveAtMs).toBe(expected);
      }),
    );
  });
});

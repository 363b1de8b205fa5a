import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ManualClock } from "#kernel/clock.ts";
import { type TestDatabase, openTestDatabase } from "../store/test-database.ts";
import { type Price, effectivePrice, pricesOf, setPrice } from "./prices.ts";

let database: TestDatabase;
beforeAll(async () => {
  database = await openTestDatabase();
});
afterAll(() => database.close());

const clock = new ManualClock();
const nowMs = clock.nowMs();
const cheap: Price = {
  promptNanosPerToken: 3n,
  cachedNanosPerToken: 1n,
  completionNanosPerToken: 9n,
  effectiveAtMs: 0,
};

describe("a price", () => {
  test("counts from its moment until the next one's", async () => {
    await setPrice(database.sql, clock, "m", cheap);
    await setPrice(database.sql, clock, "m", { ...cheap, promptNanosPerToken: 4n, effectiveAtMs: nowMs + 1_000 });
    const prices = (await pricesOf(database.sql, ["m", "unpriced"])).get("m");
    const inForce = [nowMs - 1, nowMs, nowMs + 999, nowMs + 1_000].map(
      (at) => effectivePrice(prices, at)?.promptNanosPerToken,
    );
    expect(inForce).toEqual([undefined, 3n, 3n, 4n]);
  });

  test("that is set again for the same moment replaces the first", async () => {
    await setPrice(database.sql, clock, "twice", cheap);
    await setPrice(database.sql, clock, "twice", { ...cheap, completionNanosPerToken: 8n });
    const prices = (await pricesOf(database.sql, ["twice"])).get("twice");
    expect(prices).toEqual([{ ...cheap, completionNanosPerToken: 8n, effectiveAtMs: nowMs }]);
  });

  test("is refused above a dollar a token, with the field and the limit", async () => {
    const dear = setPrice(database.sql, clock, "m", { ...cheap, cachedNanosPerToken: 1_000_000_001n });
    await expect(dear).rejects.toMatchObject({
      field: "price.cached_nanos_per_token",
      limit: "1000000000 nano-dollars",
    });
  });
});

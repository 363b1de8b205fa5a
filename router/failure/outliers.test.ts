import { describe, expect, test } from "vitest";
import { Outliers } from "./outliers.ts";

interface Peer {
  readonly ttftMs?: number;
  /** Of 20 calls. */
  readonly failed?: number;
}

function observe(outliers: Outliers, peers: Readonly<Record<string, Peer>>, nowMs = 0): void {
  for (const [replicaId, { ttftMs = 50, failed = 0 }] of Object.entries(peers)) {
    for (let call = 0; call < 20; call++) {
      if (call < failed) outliers.failed(replicaId, nowMs);
      else outliers.answered(replicaId, ttftMs, nowMs);
    }
  }
}

describe("outliers", () => {
  test("are those whose first token takes four times as long as the median, and 200 ms more", () => {
    const outliers = new Outliers(50);
    observe(outliers, { a: {}, b: { ttftMs: 60 }, c: { ttftMs: 240 }, slow: { ttftMs: 400 } });
    expect(outliers.compare(0)).toEqual([{ replicaId: "slow", why: "slowness" }]);
    expect(outliers.isEjected("slow", 0)).toBe(true);
    expect(outliers.isEjected("c", 0)).toBe(false);
  });

  test("are those that fail far more often than the median", () => {
    const outliers = new Outliers(50);
    observe(outliers, { a: { failed: 2 }, b: { failed: 3 }, c: { failed: 6 }, bad: { failed: 10 } });
    expect(outliers.compare(0)).toEqual([{ replicaId: "bad", why: "failures" }]);
  });

  test("are none when all are equally bad", () => {
    const outliers = new Outliers(100);
    observe(outliers, { a: { failed: 18 }, b: { failed: 19 }, c: { failed: 20 } });
    expect(outliers.compare(0)).toEqual([]);
  });

  test("are at most the given share of all, however many there are", () => {
    const outliers = new Outliers(40);
    const good = Object.fromEntries(["a", "b", "c", "d", "e", "f"].map((id) => [id, {}]));
    const slow = Object.fromEntries(["v", "w", "x", "y", "z"].map((id) => [id, { ttftMs: 9_000 }]));
    observe(outliers, { ...good, ...slow });
    expect(outliers.compare(0)).toHaveLength(4);
    observe(outliers, { ...good, ...slow }, 2_000);
    expect(outliers.compare(2_000)).toEqual([]);
  });

  test("need three peers with ten calls each to differ from", () => {
    const two = new Outliers(100);
    observe(two, { a: {}, slow: { ttftMs: 9_000 } });
    expect(two.compare(0)).toEqual([]);
    const unknown = new Outliers(100);
    observe(unknown, { a: {}, b: {} });
    for (let call = 0; call < 5; call++) unknown.answered("slow", 9_000, 0);
    expect(unknown.compare(0)).toEqual([]);
  });

  test("come back with a clean slate, and stay away twice as long the second time in a row", () => {
    const outliers = new Outliers(50);
    const peers = { a: {}, b: {}, c: {}, slow: { ttftMs: 9_000 } };
    observe(outliers, peers);
    outliers.compare(0);
    expect(outliers.isEjected("slow", 29_999)).toBe(true);
    expect(outliers.isEjected("slow", 30_000)).toBe(false);
    expect(outliers.compare(30_000)).toEqual([]);
    observe(outliers, peers, 30_000);
    expect(outliers.compare(31_000)).toHaveLength(1);
    expect(outliers.isEjected("slow", 90_999)).toBe(true);
    expect(outliers.isEjected("slow", 91_000)).toBe(false);
  });
});

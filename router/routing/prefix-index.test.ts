import { create } from "@bufbuild/protobuf";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { type PrefixDigest, PrefixDigestSchema } from "#gen/helixmesh/link/v1/link_pb.ts";
import { Metrics } from "#kernel/metrics.ts";
import { seededRandom } from "#kernel/random.ts";
import { PrefixIndex } from "./prefix-index.ts";
import { routingMetrics } from "./routing-metrics.ts";

function newIndex(maxEntries = 10_000) {
  const metrics = new Metrics("test");
  return {
    metrics,
    index: new PrefixIndex({ maxEntries, random: seededRandom(3), metrics: routingMetrics(metrics) }),
  };
}

function digest(replicaId: string, sequence: number, change: Partial<PrefixDigest>): PrefixDigest {
  return create(PrefixDigestSchema, {
    replicaId,
    sequence: BigInt(sequence),
    snapshot: change.snapshot ?? false,
    added: change.added ?? [],
    removed: change.removed ?? [],
  });
}

const prompt = (...hashes: number[]): Uint32Array => Uint32Array.from(hashes);
const anyone = (): boolean => true;

describe("the prefix index", () => {
  test("finds the longest prefix first, then shorter ones", () => {
    const { index } = newIndex();
    index.apply("n1", digest("r1", 1, { added: [1, 2] }));
    index.apply("n2", digest("r2", 1, { added: [1, 2, 3, 4] }));
    index.apply("n3", digest("r3", 1, { added: [1] }));
    index.apply("n4", digest("r4", 1, { added: [9] }));
    expect(index.longest(prompt(1, 2, 3, 4, 5), anyone, 4)).toEqual([
      { replicaId: "r2", blocks: 4 },
      { replicaId: "r1", blocks: 2 },
      { replicaId: "r3", blocks: 1 },
    ]);
    expect(index.matched("r1", prompt(1, 2, 3))).toBe(2);
    expect(index.matched("r4", prompt(1, 2, 3))).toBe(0);
  });

  test("gives no more than asked for, by chance among equals, and only accepted ones", () => {
    const { index } = newIndex();
    for (let i = 1; i <= 50; i++) index.apply(`n${i}`, digest(`r${i}`, 1, { added: [1, 2] }));
    const seen = new Set<string>();
    for (let i = 0; i < 200; i++) {
      const found = index.longest(prompt(1, 2, 3), (id) => id !== "r7", 3);
      expect(found).toHaveLength(3);
      for (const { replicaId, blocks } of found) {
        expect(blocks).toBe(2);
        seen.add(replicaId);
      }
    }
    expect(seen.size).toBe(49);
    expect(seen).not.toContain("r7");
  });

  test("forgets what is removed, replaced by a snapshot, or on a node whose link is lost", () => {
    const { index } = newIndex();
    index.apply("n1", digest("r1", 1, { added: [1, 2, 3] }));
    index.apply("n1", digest("r1", 2, { removed: [3] }));
    expect(index.matched("r1", prompt(1, 2, 3))).toBe(2);
    index.apply("n1", digest("r1", 3, { snapshot: true, added: [1] }));
    expect(index.matched("r1", prompt(1, 2, 3))).toBe(1);
    index.forget("n1");
    expect(index.matched("r1", prompt(1, 2, 3))).toBe(0);
    expect(index.entries).toBe(0);
  });

  test("says that there is a gap once, knows nothing until the snapshot, and goes on from there", async () => {
    const { index, metrics } = newIndex();
    index.apply("n1", digest("r1", 1, { added: [1] }));
    expect(index.apply("n1", digest("r1", 3, { added: [2] }))).toBe("gap");
    expect(index.apply("n1", digest("r1", 4, { added: [3] }))).toBe("ok");
    expect(index.entries).toBe(0);
    expect(index.apply("n1", digest("r1", 5, { snapshot: true, added: [1, 2] }))).toBe("ok");
    expect(index.apply("n1", digest("r1", 6, { added: [3] }))).toBe("ok");
    expect(index.matched("r1", prompt(1, 2, 3))).toBe(3);
    expect(await metrics.text()).toMatch(/routing_prefix_gaps_total\S* 1\n/);
  });

  test("has a gap when the first digest that it hears is not the first", () => {
    const { index } = newIndex();
    expect(index.apply("n1", digest("r1", 7, { added: [1] }))).toBe("gap");
    const late = newIndex();
    expect(late.index.apply("n1", digest("r1", 7, { snapshot: true, added: [1] }))).toBe("ok");
  });

  test("remembers its own picks where no digest comes, and drops them for the first one that does", () => {
    const { index } = newIndex();
    expect(index.picked("n1", "r1", prompt(1, 2, 3))).toBe(true);
    expect(index.matched("r1", prompt(1, 2, 3))).toBe(3);
    index.apply("n1", digest("r1", 1, { added: [8] }));
    expect(index.matched("r1", prompt(1, 2, 3))).toBe(0);
    expect(index.picked("n1", "r1", prompt(1, 2, 3))).toBe(false);
    expect(index.matched("r1", prompt(1, 2, 3))).toBe(0);
  });

  test("guesses a bounded number of blocks for a replica, and keeps the beginnings that prompts share", () => {
    const { index } = newIndex();
    for (let i = 0; i < 300; i++) {
      index.picked("n1", "r1", prompt(1, 2, ...Array.from({ length: 20 }, (_, k) => 1_000 + i * 20 + k)));
    }
    expect(index.entries).toBe(2_048);
    expect(index.matched("r1", prompt(1, 2))).toBe(2);
  });

  test("holds no more entries than the setting says, and counts what it drops", async () => {
    const { index, metrics } = newIndex(100);
    for (let i = 1; i <= 10; i++) {
      index.apply(`n${i}`, digest(`r${i}`, 1, { added: Array.from({ length: 20 }, (_, k) => i * 100 + k) }));
    }
    expect(index.entries).toBe(100);
    expect(await metrics.text()).toMatch(/routing_prefix_evictions_total\S* 100\n/);
  });

  test("agrees with a plain table of who holds what, whatever comes in which order", () => {
    const change = fc.record({
      replica: fc.integer({ min: 1, max: 5 }),
      prompt: fc.integer({ min: 0, max: 4 }),
      blocks: fc.integer({ min: 0, max: 12 }),
      forgets: fc.boolean(),
    });
    const hashes = (which: number): number[] =>
      Array.from({ length: 12 }, (_, i) => (i < 3 ? i + 1 : which * 100 + i + 1));
    fc.assert(
      fc.property(fc.array(change, { maxLength: 60 }), (changes) => {
        const { index } = newIndex();
        const table = new Map<string, Set<number>>();
        const sequences = new Map<string, number>();
        for (const { replica, prompt: which, blocks, forgets } of changes) {
          const id = `r${replica}`;
          if (forgets) {
            index.forget(`n${replica}`);
            table.delete(id);
            sequences.delete(id);
            continue;
          }
          const sequence = (sequences.get(id) ?? 0) + 1;
          sequences.set(id, sequence);
          const held = table.get(id) ?? new Set<number>();
          table.set(id, held);
          const added = hashes(which).slice(0, blocks);
          const removed = hashes(which).slice(Math.max(3, blocks));
          index.apply(`n${replica}`, digest(id, sequence, { added, removed }));
          for (const hash of removed) held.delete(hash);
          for (const hash of added) held.add(hash);
        }
        for (let which = 0; which < 5; which++) {
          const asked = Uint32Array.from(hashes(which));
          const truth = new Map<string, number>();
          for (const [id, held] of table) {
            const missing = asked.findIndex((hash) => !held.has(hash));
            truth.set(id, missing === -1 ? asked.length : missing);
          }
          for (const [id, blocks] of truth) expect(index.matched(id, asked)).toBe(blocks);
          const longest = Math.max(0, ...truth.values());
          expect(index.longest(asked, anyone, 4)[0]?.blocks ?? 0).toBe(longest);
        }
        expect(index.entries).toBe([...table.values()].reduce((sum, held) => sum + held.size, 0));
      }),
      { seed: 11, numRuns: 200 },
    );
  });
});

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { type Digest, PrefixFeed } from "./prefix-feed.ts";

function feeding(held: Record<string, readonly number[]>) {
  const state = new Map(Object.entries(held).map(([id, hashes]) => [id, new Set(hashes)]));
  const feed = new PrefixFeed({
    blockBytes: 256,
    replicaIds: () => state.keys(),
    held: (id) => {
      const hashes = state.get(id);
      return hashes && Uint32Array.from(hashes);
    },
  });
  const change = (id: string, added: number[], removed: number[]): void => {
    const hashes = state.get(id) ?? new Set();
    state.set(id, hashes);
    for (const hash of added) hashes.add(hash);
    for (const hash of removed) hashes.delete(hash);
    feed.change(id, { added, removed });
  };
  return { feed, state, change };
}

const plain = (digests: readonly Digest[]) =>
  digests.map(({ added, removed, ...rest }) => ({ ...rest, added: Array.from(added), removed: Array.from(removed) }));

describe("a prefix feed", () => {
  test("begins with a snapshot of each replica, then tells what changed, joined and numbered", () => {
    const { feed, change } = feeding({ a: [1, 2], b: [] });
    expect(plain(feed.take())).toEqual([
      { replicaId: "a", sequence: 1, snapshot: true, added: [1, 2], removed: [] },
      { replicaId: "b", sequence: 1, snapshot: true, added: [], removed: [] },
    ]);
    expect(feed.isEmpty).toBe(true);
    change("a", [3, 4], [1]);
    change("a", [5], [3]);
    expect(plain(feed.take())).toEqual([
      { replicaId: "a", sequence: 2, snapshot: false, added: [4, 5], removed: [1, 3] },
    ]);
  });

  test("answers a router that lost track with a snapshot of what is held when it leaves", () => {
    const { feed, change } = feeding({ a: [1] });
    feed.take();
    feed.resend("a");
    change("a", [2], [1]);
    expect(plain(feed.take())).toEqual([{ replicaId: "a", sequence: 2, snapshot: true, added: [2], removed: [] }]);
  });

  test("begins with a snapshot for a replica that came later, and says of one that is gone that it holds nothing", () => {
    const { feed, state, change } = feeding({});
    change("a", [1], []);
    expect(plain(feed.take())).toMatchObject([{ replicaId: "a", sequence: 1, snapshot: true, added: [1] }]);
    state.delete("a");
    feed.change("a", "snapshot");
    feed.resend("never");
    expect(plain(feed.take())).toEqual([{ replicaId: "a", sequence: 2, snapshot: true, added: [], removed: [] }]);
  });

  test("sends a snapshot in the place of very many changes", () => {
    const { feed, change } = feeding({ a: [] });
    feed.take();
    change(
      "a",
      Array.from({ length: 20_000 }, (_, hash) => hash),
      [],
    );
    expect(feed.take()).toMatchObject([{ sequence: 2, snapshot: true }]);
  });

  test("lets a router that follows it know exactly what is held", () => {
    const hashes = fc.array(fc.nat(30), { maxLength: 6 });
    const event = fc.oneof(
      fc.record({ kind: fc.constant("change" as const), added: hashes, removed: hashes }),
      fc.record({ kind: fc.constantFrom("take" as const, "resend" as const) }),
    );
    fc.assert(
      fc.property(hashes, fc.array(event), (first, events) => {
        const { feed, state, change } = feeding({ a: first });
        const known = new Set<number>();
        const follow = (): void => {
          for (const { snapshot, added, removed } of feed.take()) {
            if (snapshot) known.clear();
            for (const hash of Array.from(added)) known.add(hash);
            for (const hash of Array.from(removed)) known.delete(hash);
          }
        };
        for (const one of events) {
          if (one.kind === "change") change("a", one.added, one.removed);
          else if (one.kind === "resend") feed.resend("a");
          else follow();
        }
        follow();
        expect(known).toEqual(state.get("a") ?? new Set());
      }),
    );
  });
});

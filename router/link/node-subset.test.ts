import { create } from "@bufbuild/protobuf";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { SnapshotSchema } from "#gen/helixmesh/discovery/v1/discovery_pb.ts";
import { type IndexedSnapshot, indexSnapshot } from "../discovery/snapshot.ts";
import { NodeSubset } from "./node-subset.ts";
import type { RouterPeer } from "./router-peers.ts";

/** One node for each zone, node-0 first; a deployment's replicas are on the nodes of the given numbers. */
function snapshotOf(zones: readonly string[], deployments: Record<string, readonly number[]> = {}): IndexedSnapshot {
  return indexSnapshot(
    create(SnapshotSchema, {
      nodes: zones.map((zone, index) => ({ nodeId: `node-${index}`, zone })),
      deployments: Object.keys(deployments).map((name) => ({ name, model: name })),
      replicas: Object.entries(deployments).flatMap(([deployment, nodes]) =>
        nodes.map((index) => ({ replicaId: `${deployment}-${index}`, deployment, nodeId: `node-${index}` })),
      ),
    }),
  );
}

const nodesIn = (count: number, ...zones: readonly string[]): string[] =>
  Array.from({ length: count }, (_, index) => zones[index % zones.length] ?? "");
const routersIn = (...zones: readonly string[]): RouterPeer[] =>
  zones.map((zone, index) => ({ id: `router-${index}:8080`, zone }));

/** What each router chooses, by itself. */
function choices(snapshot: IndexedSnapshot, all: readonly RouterPeer[], maxLinks: number): ReadonlySet<string>[] {
  return all.map((own) => new Set(new NodeSubset({ own, all, maxLinks }).choose(snapshot).keys()));
}

const zone = fc.constantFrom("", "a", "b", "c");
const mesh = fc.record({
  zones: fc.array(zone, { minLength: 1, maxLength: 150 }),
  routers: fc.array(zone, { minLength: 2, maxLength: 8 }).map((zones) => routersIn(...zones)),
  maxLinks: fc.integer({ min: 1, max: 150 }),
});

describe("a subset of the nodes", () => {
  test.each([
    ["without a limit", 0, routersIn("a", "b")],
    ["below the limit", 100, routersIn("a", "b")],
    ["of a router that knows no others", 10, []],
  ])("is all of them %s", (_when, maxLinks, all) => {
    const subset = new NodeSubset({ own: { id: "router-0:8080", zone: "a" }, all, maxLinks });
    expect(subset.choose(snapshotOf(nodesIn(100, "a", "b"))).size).toBe(100);
  });

  test("leaves no node out, and each router has all the links that it may, and no more", () => {
    fc.assert(
      fc.property(mesh, ({ zones, routers, maxLinks }) => {
        const chosen = choices(snapshotOf(zones), routers, maxLinks);
        expect(new Set(chosen.flatMap((ids) => [...ids])).size).toBe(zones.length);
        const most = Math.min(zones.length, Math.max(maxLinks, Math.ceil(zones.length / routers.length)));
        expect(chosen.map(({ size }) => size)).toEqual(routers.map(() => most));
      }),
    );
  });

  test("gives every node a router of its zone while these have room, and their room to their zone while they have none", () => {
    fc.assert(
      fc.property(mesh, ({ zones, routers, maxLinks }) => {
        const chosen = choices(snapshotOf(zones), routers, maxLinks);
        const most = Math.max(maxLinks, Math.ceil(zones.length / routers.length));
        for (const zone of ["a", "b", "c"]) {
          const near = chosen.filter((_, index) => routers[index]?.zone === zone);
          const nodes = zones.flatMap((other, index) => (other === zone ? `node-${index}` : []));
          const linked = nodes.filter((nodeId) => near.some((ids) => ids.has(nodeId)));
          expect(linked.length).toBe(Math.min(nodes.length, near.length * most));
        }
      }),
    );
  });

  test("gives each node as many routers as another, or one more", () => {
    const zones = nodesIn(1_000, "a", "a", "b");
    const chosen = choices(snapshotOf(zones), routersIn("a", "a", "b", "b", ""), 450);
    const holders = zones.map((_, index) => chosen.filter((ids) => ids.has(`node-${index}`)).length);
    expect(new Set(holders)).toEqual(new Set([2, 3]));
  });

  test("keeps two nodes of every deployment that has them, of its own zone if it can", () => {
    const deployments = Object.fromEntries(
      Array.from({ length: 60 }, (_, index) => [`d${index}`, index === 0 ? [7] : [index, index + 60, index + 120]]),
    );
    const zones = nodesIn(200, "a", "b");
    const all = routersIn("a", "b", "a", "b", "a");
    for (const own of all) {
      const chosen = new NodeSubset({ own, all, maxLinks: 40 }).choose(snapshotOf(zones, deployments));
      for (const nodes of Object.values(deployments)) {
        const kept = nodes.filter((index) => chosen.has(`node-${index}`)).length;
        expect(kept).toBeGreaterThanOrEqual(Math.min(2, nodes.length));
      }
    }
    const lonely = { d: [0, 1, 2, 3, 4, 5] };
    const own = { id: "router-9", zone: "b" };
    const chosen = new NodeSubset({ own, all: [...all, own], maxLinks: 1 }).choose(snapshotOf(zones, lonely));
    const kept = lonely.d.filter((index) => chosen.has(`node-${index}`));
    expect(kept.filter((index) => zones[index] === "b")).toHaveLength(2);
  });

  test.each([
    ["zones that are alike", nodesIn(300, "a", "b", "c"), routersIn("a", "b", "c", "a", "b", "c"), 120],
    ["a zone with too few routers", nodesIn(300, "a", "a", "a", "b"), routersIn("a", "b", "b", "b", "b", "b"), 120],
    ["no zones", nodesIn(300, ""), routersIn("", "", "", "", "", ""), 120],
    ["no room to spare", nodesIn(300, "a", "b"), routersIn("a", "b", "a", "b", "a", "b"), 50],
  ])("moves few links when a node leaves or comes, with %s", (_what, zones, all, maxLinks) => {
    const subsets = all.map((own) => new NodeSubset({ own, all, maxLinks }));
    const whole = snapshotOf(zones);
    const before = subsets.map((subset) => [...subset.choose(whole).keys()]);
    const links = before.flat().length;
    let moved = 0;
    for (let gone = 0; gone < zones.length; gone += 10) {
      const nodes = [...whole.nodes.values()].filter((_, index) => index !== gone);
      const without = indexSnapshot(create(SnapshotSchema, { nodes }));
      for (const [index, subset] of subsets.entries()) {
        const after = subset.choose(without);
        moved += (before[index] ?? []).filter((id) => id !== `node-${gone}` && !after.has(id)).length;
      }
    }
    // Of 30 nodes, one after the other: besides its own links less than one in a hundred of all.
    expect(moved / 30).toBeLessThan(links / 100);
  });

  test("moves few links of the others when a router leaves or comes", () => {
    const all = routersIn("a", "b", "c", "a", "b", "c", "a", "b", "c");
    const snapshot = snapshotOf(nodesIn(600, "a", "b", "c"));
    const before = choices(snapshot, all, 150).slice(0, -1);
    const after = choices(snapshot, all.slice(0, -1), 150);
    const dropped = before.map((ids, index) => [...ids].filter((id) => !after[index]?.has(id)).length);
    // Its 150 links have to go somewhere.
    expect(dropped.reduce((sum, count) => sum + count, 0)).toBeLessThan(150);
  });

  test("follows a node into another zone", () => {
    const all = routersIn("a", "b");
    const subsets = all.map((own) => new NodeSubset({ own, all, maxLinks: 2 }));
    const holders = (zones: readonly string[]) =>
      subsets.map((subset) => subset.choose(snapshotOf(zones)).has("node-0"));
    expect(holders(["a", "a", "b", "b"])).toEqual([true, false]);
    expect(holders(["b", "a", "b", "a"])).toEqual([false, true]);
  });
});

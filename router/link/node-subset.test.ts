import { create } from "@bufbuild/protobuf";
import { describe, expect, test } from "vitest";
import { SnapshotSchema } from "#gen/helixmesh/discovery/v1/discovery_pb.ts";
import { type IndexedSnapshot, indexSnapshot } from "../discovery/snapshot.ts";
import { NodeSubset } from "./node-subset.ts";

/** `count` nodes; a deployment's replicas are on the nodes of the given numbers. */
function snapshotOf(count: number, deployments: Record<string, readonly number[]> = {}): IndexedSnapshot {
  return indexSnapshot(
    create(SnapshotSchema, {
      nodes: Array.from({ length: count }, (_, index) => ({ nodeId: `node-${index}` })),
      deployments: Object.keys(deployments).map((name) => ({ name, model: name })),
      replicas: Object.entries(deployments).flatMap(([deployment, nodes]) =>
        nodes.map((index) => ({ replicaId: `${deployment}-${index}`, deployment, nodeId: `node-${index}` })),
      ),
    }),
  );
}

const routers = Array.from({ length: 5 }, (_, index) => `router-${index}:8080`);
const choose = (snapshot: IndexedSnapshot, routerId: string, maxLinks: number, known: readonly string[] = routers) =>
  new NodeSubset({ routerId, routers: known, maxLinks }).choose(snapshot);

describe("a subset of the nodes", () => {
  test.each([
    ["without a limit", 0, routers],
    ["below the limit", 100, routers],
    ["of a router that knows no others", 10, []],
  ])("is all of them %s", (_when, maxLinks, known) => {
    expect(choose(snapshotOf(100), "router-0:8080", maxLinks, known).size).toBe(100);
  });

  test("leaves no node out, gives each to as many routers as fit, and shares them about evenly", () => {
    const snapshot = snapshotOf(1_000);
    const subsets = routers.map((routerId) => choose(snapshot, routerId, 450));
    const holders = [...snapshot.nodes.keys()].map((nodeId) => subsets.filter((subset) => subset.has(nodeId)).length);
    expect(new Set(holders)).toEqual(new Set([2]));
    for (const { size } of subsets) expect(Math.abs(size - 400)).toBeLessThan(80);
  });

  test("leaves no node out where that takes more links than wished", () => {
    const snapshot = snapshotOf(1_000);
    const linked = new Set(routers.flatMap((routerId) => [...choose(snapshot, routerId, 10).keys()]));
    expect(linked.size).toBe(1_000);
  });

  test("keeps two nodes of every deployment that has them", () => {
    const deployments = Object.fromEntries(
      Array.from({ length: 60 }, (_, index) => [`d${index}`, index === 0 ? [7] : [index, index + 60, index + 120]]),
    );
    const snapshot = snapshotOf(200, deployments);
    for (const routerId of routers) {
      const chosen = choose(snapshot, routerId, 40);
      for (const nodes of Object.values(deployments)) {
        const kept = nodes.filter((index) => chosen.has(`node-${index}`)).length;
        expect(kept).toBeGreaterThanOrEqual(Math.min(2, nodes.length));
      }
    }
  });

  test("is refused to a router that its list lacks", () => {
    expect(() => choose(snapshotOf(1), "router-9:8080", 10)).toThrow(/lacks this router, router-9:8080/);
  });

  test("moves no other links when a node leaves", () => {
    const subset = new NodeSubset({ routerId: "router-1:8080", routers, maxLinks: 450 });
    const before = new Set(subset.choose(snapshotOf(1_000)).keys());
    const after = new Set(subset.choose(snapshotOf(999)).keys());
    before.delete("node-999");
    expect(after).toEqual(before);
  });
});

import { describe, expect, test } from "vitest";
import { EngineKind } from "#gen/helixmesh/type/v1/type_pb.ts";
import { place } from "./place.ts";
import type { PlacedReplica, PlacementDeployment, PlacementNode } from "./snapshot.ts";

function node(name: string, changes: Partial<PlacementNode> = {}): PlacementNode {
  return {
    id: `id-${name}`,
    name,
    presence: "online",
    cordoned: false,
    labels: {},
    engines: [EngineKind.LLAMA_CPP, EngineKind.SIM],
    ...changes,
  };
}

function deployment(replicas: number, changes: Partial<PlacementDeployment> = {}): PlacementDeployment {
  return {
    name: "chat",
    replicas,
    spec: "1",
    engine: EngineKind.SIM,
    nodeLabels: {},
    maxReplicasPerNode: 1,
    ...changes,
  };
}

function replica(id: string, on: string, changes: Partial<PlacedReplica> = {}): PlacedReplica {
  return {
    id,
    deployment: "chat",
    nodeId: `id-${on}`,
    spec: "1",
    createdAtMs: 0,
    draining: false,
    gone: false,
    ready: true,
    ...changes,
  };
}

describe("creating", () => {
  test("replicas are spread, one a node, in order of name", () => {
    const plan = place({ nodes: [node("c"), node("a"), node("b")], deployments: [deployment(2)], replicas: [] });
    expect(plan.create).toEqual([
      { deployment: "chat", nodeId: "id-a" },
      { deployment: "chat", nodeId: "id-b" },
    ]);
    expect(plan.unplaced).toEqual([]);
  });

  test("the node that holds least of everything is filled first", () => {
    const plan = place({
      nodes: [node("a"), node("b")],
      deployments: [deployment(1), deployment(1, { name: "other" })],
      replicas: [replica("r1", "a", { deployment: "other" })],
    });
    expect(plan.create).toEqual([{ deployment: "chat", nodeId: "id-b" }]);
  });

  test("offline, cordoned, unlabelled and engineless nodes get nothing, and the reason says so", () => {
    const plan = place({
      nodes: [
        node("a", { presence: "away" }),
        node("b", { cordoned: true, labels: { zone: "x" } }),
        node("c", { labels: { zone: "y" } }),
        node("d", { labels: { zone: "x" }, engines: [EngineKind.LLAMA_CPP] }),
        node("e", { labels: { zone: "x" } }),
      ],
      deployments: [deployment(2, { nodeLabels: { zone: "x" } })],
      replicas: [],
    });
    expect(plan.create).toEqual([{ deployment: "chat", nodeId: "id-e" }]);
    expect(plan.unplaced).toEqual([
      {
        deployment: "chat",
        missing: 1,
        reason:
          "1 of 2 replicas not placed: 1 node with max_replicas_per_node (1) reached, 1 node offline, 1 node cordoned, " +
          "1 node without engine sim, 1 node without the labels zone=x; add nodes or loosen the deployment's constraints",
      },
    ]);
  });

  test("a draining replica of the same spec still holds its place on a full node", () => {
    const plan = place({
      nodes: [node("a")],
      deployments: [deployment(1)],
      replicas: [replica("r1", "a", { draining: true })],
    });
    expect(plan.create).toEqual([]);
    expect(plan.unplaced).toHaveLength(1);
  });

  test("without nodes the reason says to start one", () => {
    const plan = place({ nodes: [], deployments: [deployment(1)], replicas: [] });
    expect(plan.unplaced[0]?.reason).toBe("1 of 1 replica not placed: no node is registered; start a node agent");
  });
});

describe("scaling down", () => {
  test("what does not serve goes first", () => {
    const plan = place({
      nodes: [node("a"), node("b")],
      deployments: [deployment(1)],
      replicas: [replica("r1", "a", { ready: false }), replica("r2", "b", { createdAtMs: 5 })],
    });
    expect(plan).toEqual({ create: [], drain: ["r1"], remove: [], unplaced: [] });
  });

  test("a ready replica on a node that went away goes before one that serves", () => {
    const plan = place({
      nodes: [node("a", { presence: "away" }), node("b")],
      deployments: [deployment(1)],
      replicas: [replica("r1", "a"), replica("r2", "b", { createdAtMs: 5 })],
    });
    expect(plan.drain).toEqual(["r1"]);
  });

  test("then the fullest node, then the newest replica", () => {
    const plan = place({
      nodes: [node("a"), node("b")],
      deployments: [deployment(1, { maxReplicasPerNode: 2 })],
      replicas: [
        replica("r1", "a", { createdAtMs: 1 }),
        replica("r2", "b", { createdAtMs: 2 }),
        replica("r3", "b", { createdAtMs: 1 }),
      ],
    });
    expect(plan.drain).toEqual(["r2", "r3"]);
  });

  test("replicas of a deleted deployment drain, and are forgotten when gone", () => {
    const replicas = [replica("r1", "a"), replica("r2", "a", { draining: true, gone: true, ready: false })];
    expect(place({ nodes: [node("a")], deployments: [], replicas })).toEqual({
      create: [],
      drain: ["r1"],
      remove: ["r2"],
      unplaced: [],
    });
  });
});

describe("changing the spec", () => {
  const nodes = [node("a")];
  const deployments = [deployment(1, { spec: "2" })];

  test("the new replica comes before the old one goes, on the same node if there is no other", () => {
    const plan = place({ nodes, deployments, replicas: [replica("r1", "a")] });
    expect(plan).toEqual({ create: [{ deployment: "chat", nodeId: "id-a" }], drain: [], remove: [], unplaced: [] });
  });

  test("the old one waits while the new one loads", () => {
    const replicas = [replica("r1", "a"), replica("r2", "a", { spec: "2", ready: false, createdAtMs: 1 })];
    expect(place({ nodes, deployments, replicas })).toEqual({ create: [], drain: [], remove: [], unplaced: [] });
  });

  test("the old one goes when the new one is ready", () => {
    const replicas = [replica("r1", "a"), replica("r2", "a", { spec: "2", createdAtMs: 1 })];
    expect(place({ nodes, deployments, replicas }).drain).toEqual(["r1"]);
  });

  test("an old one that serves nothing goes at once", () => {
    const plan = place({ nodes, deployments, replicas: [replica("r1", "a", { ready: false })] });
    expect(plan.drain).toEqual(["r1"]);
    expect(plan.create).toHaveLength(1);
  });

  test("a replica whose node lost the wanted label is replaced the same way", () => {
    const labelled = [deployment(1, { nodeLabels: { zone: "x" } })];
    const both = [node("a"), node("b", { labels: { zone: "x" } })];
    const before = place({ nodes: both, deployments: labelled, replicas: [replica("r1", "a")] });
    expect(before).toMatchObject({ create: [{ nodeId: "id-b" }], drain: [] });
    const after = place({ nodes: both, deployments: labelled, replicas: [replica("r1", "a"), replica("r2", "b")] });
    expect(after).toMatchObject({ create: [], drain: ["r1"] });
  });
});

describe("losing a node", () => {
  test("within the grace time nothing happens", () => {
    const plan = place({
      nodes: [node("a", { presence: "away" }), node("b")],
      deployments: [deployment(1)],
      replicas: [replica("r1", "a")],
    });
    expect(plan).toEqual({ create: [], drain: [], remove: [], unplaced: [] });
  });

  test("after it a replacement is made, and the lost replica is forgotten once that is ready", () => {
    const nodes = [node("a", { presence: "lost" }), node("b")];
    const deployments = [deployment(1)];
    const lost = replica("r1", "a");
    expect(place({ nodes, deployments, replicas: [lost] })).toMatchObject({
      create: [{ nodeId: "id-b" }],
      remove: [],
    });
    const loading = replica("r2", "b", { ready: false });
    expect(place({ nodes, deployments, replicas: [lost, loading] })).toMatchObject({ create: [], remove: [] });
    const ready = replica("r2", "b");
    expect(place({ nodes, deployments, replicas: [lost, ready] })).toMatchObject({ create: [], remove: ["r1"] });
  });

  test("a node that returns before that keeps its replica and the loading replacement goes", () => {
    const plan = place({
      nodes: [node("a"), node("b")],
      deployments: [deployment(1)],
      replicas: [replica("r1", "a"), replica("r2", "b", { ready: false, createdAtMs: 9 })],
    });
    expect(plan).toEqual({ create: [], drain: ["r2"], remove: [], unplaced: [] });
  });

  test("a draining replica on a lost node is forgotten", () => {
    const plan = place({
      nodes: [node("a", { presence: "lost" })],
      deployments: [deployment(0)],
      replicas: [replica("r1", "a", { draining: true })],
    });
    expect(plan.remove).toEqual(["r1"]);
  });
});

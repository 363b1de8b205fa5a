import { create } from "@bufbuild/protobuf";
import { describe, expect, test } from "vitest";
import { DeltaSchema, SnapshotSchema } from "#gen/helixmesh/discovery/v1/discovery_pb.ts";
import { applyDelta, emptySnapshot, indexSnapshot, snapshotMessage } from "./snapshot.ts";

const message = create(SnapshotSchema, {
  version: 7n,
  models: [{ name: "pocket" }, { name: "atlas" }],
  aliases: [{ name: "small", model: "pocket" }],
  deployments: [
    { name: "pocket-b", model: "pocket" },
    { name: "pocket-a", model: "pocket" },
  ],
  nodes: [{ nodeId: "n1", linkAddress: "127.0.0.1:1" }],
  replicas: [
    { replicaId: "r2", deployment: "pocket-a", nodeId: "n1" },
    { replicaId: "r1", deployment: "pocket-a", nodeId: "n1" },
  ],
  keys: [{ keyId: "k1" }],
});

describe("a snapshot", () => {
  test("indexes deployments by model and replicas by deployment, sorted", () => {
    const snapshot = indexSnapshot(message);
    expect(snapshot.deploymentsOfModel.get("pocket")?.map((item) => item.name)).toEqual(["pocket-a", "pocket-b"]);
    expect(snapshot.replicasOfDeployment.get("pocket-a")?.map((item) => item.replicaId)).toEqual(["r1", "r2"]);
  });

  test("survives a turn into its message and back", () => {
    const snapshot = indexSnapshot(message);
    expect(indexSnapshot(snapshotMessage(snapshot))).toEqual(snapshot);
  });
});

describe("a delta", () => {
  test("adds, replaces and removes without touching the snapshot before it", () => {
    const before = indexSnapshot(message);
    const after = applyDelta(
      before,
      create(DeltaSchema, {
        version: 8n,
        upserts: {
          nodes: [{ nodeId: "n1", linkAddress: "127.0.0.1:2" }],
          replicas: [{ replicaId: "r3", deployment: "pocket-b" }],
        },
        removedReplicas: ["r1"],
        removedKeys: ["k1"],
        removedAliases: ["small"],
      }),
    );
    expect(after.version).toBe(8n);
    expect(after.nodes.get("n1")?.linkAddress).toBe("127.0.0.1:2");
    expect([...after.replicas.keys()]).toEqual(["r2", "r3"]);
    expect(after.replicasOfDeployment.get("pocket-a")?.map((item) => item.replicaId)).toEqual(["r2"]);
    expect(after.keys.size).toBe(0);
    expect(after.aliases.size).toBe(0);
    expect(after.models).toBe(before.models);
    expect(before.nodes.get("n1")?.linkAddress).toBe("127.0.0.1:1");
    expect(before.keys.size).toBe(1);
  });

  test("that is empty gives the same object back", () => {
    const before = indexSnapshot(message);
    expect(applyDelta(before, create(DeltaSchema, { version: 7n }))).toBe(before);
  });

  test("on the empty snapshot makes a first one", () => {
    const after = applyDelta(
      emptySnapshot,
      create(DeltaSchema, { version: 1n, upserts: { models: [{ name: "pocket" }] } }),
    );
    expect([...after.models.keys()]).toEqual(["pocket"]);
  });

  test("that removes and adds one name keeps it", () => {
    const after = applyDelta(
      indexSnapshot(message),
      create(DeltaSchema, {
        version: 8n,
        removedReplicas: ["r1"],
        upserts: { replicas: [{ replicaId: "r1", deployment: "pocket-b" }] },
      }),
    );
    expect(after.replicas.get("r1")?.deployment).toBe("pocket-b");
  });
});

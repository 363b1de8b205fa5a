import { create } from "@bufbuild/protobuf";
import { describe, expect, test } from "vitest";
import { SnapshotSchema } from "#gen/helixmesh/discovery/v1/discovery_pb.ts";
import { EngineCapabilitiesSchema, ReplicaLoadSchema, ReplicaState } from "#gen/helixmesh/type/v1/type_pb.ts";
import { indexSnapshot } from "../discovery/snapshot.ts";
import { type Need, type ReplicaView, findCandidates } from "./candidates.ts";

const snapshot = indexSnapshot(
  create(SnapshotSchema, {
    models: [{ name: "pocket" }],
    deployments: [
      { name: "a", model: "pocket" },
      { name: "b", model: "pocket" },
    ],
    replicas: [
      { replicaId: "r1", deployment: "a", nodeId: "n1" },
      { replicaId: "r2", deployment: "b", nodeId: "n2" },
    ],
  }),
);
const deployments = snapshot.deploymentsOfModel.get("pocket") ?? [];
const generate: Need = { capability: "generate", parameter: "model" };
const grammar: Need = { capability: "grammar", parameter: "response_format" };

function view(
  state: ReplicaState,
  capabilities: { generate?: boolean; grammar?: boolean } = { generate: true },
): ReplicaView {
  return {
    state,
    capabilities: create(EngineCapabilitiesSchema, capabilities),
    load: create(ReplicaLoadSchema, { running: 3, queued: 1 }),
    inFlight: 2,
  };
}

function find(views: Record<string, ReplicaView>, needs: readonly Need[] = [generate]) {
  return findCandidates(snapshot, (nodeId, replicaId) => views[`${nodeId}/${replicaId}`], deployments, needs);
}

describe("candidates", () => {
  test("are the ready replicas of every deployment, with their load", () => {
    const found = find({ "n1/r1": view(ReplicaState.READY), "n2/r2": view(ReplicaState.READY) });
    expect(found).toMatchObject({
      kind: "candidates",
      candidates: [
        { replicaId: "r1", nodeId: "n1", deployment: "a", running: 3, queued: 1, inFlight: 2 },
        { replicaId: "r2", nodeId: "n2", deployment: "b" },
      ],
    });
  });

  test.each([ReplicaState.DRAINING, ReplicaState.LOADING, ReplicaState.WARMING, ReplicaState.FAILED])(
    "leave out a replica in state %i",
    (state) => {
      const found = find({ "n1/r1": view(state), "n2/r2": view(ReplicaState.READY) });
      expect(found).toMatchObject({ kind: "candidates", candidates: [{ replicaId: "r2" }] });
    },
  );

  test("leave out a replica whose link is down", () => {
    expect(find({})).toEqual({ kind: "none-ready", known: 2 });
  });

  test("leave out a replica that cannot do what the call needs", () => {
    const found = find(
      { "n1/r1": view(ReplicaState.READY), "n2/r2": view(ReplicaState.READY, { generate: true, grammar: true }) },
      [generate, grammar],
    );
    expect(found).toMatchObject({ kind: "candidates", candidates: [{ replicaId: "r2" }] });
  });

  test("name the parameter when no ready replica can do it", () => {
    const found = find({ "n1/r1": view(ReplicaState.READY) }, [generate, grammar]);
    expect(found).toEqual({ kind: "unsupported", need: grammar });
  });
});

import { type MessageInitShape, create } from "@bufbuild/protobuf";
import { describe, expect, test } from "vitest";
import { SnapshotSchema } from "#gen/helixmesh/discovery/v1/discovery_pb.ts";
import { EngineCapabilitiesSchema, ReplicaLoadSchema, ReplicaState } from "#gen/helixmesh/type/v1/type_pb.ts";
import { indexSnapshot } from "../discovery/snapshot.ts";
import type { ReplicaView } from "../routing/replica-view.ts";
import { Rooms } from "./rooms.ts";

const snapshot = indexSnapshot(
  create(SnapshotSchema, {
    models: [{ name: "m" }, { name: "spare" }],
    deployments: [
      { name: "a", model: "m", routing: { fallbackModels: ["spare"] } },
      { name: "b", model: "m" },
      { name: "c", model: "spare" },
    ],
    replicas: ["a1:a", "a2:a", "b1:b", "c1:c"].map((text) => {
      const [replicaId = "", deployment = ""] = text.split(":");
      return { replicaId, deployment, nodeId: `node-of-${replicaId}` };
    }),
  }),
);

interface Known {
  readonly state?: ReplicaState;
  readonly inFlight?: number;
  readonly parallel?: number;
  readonly load?: Exclude<MessageInitShape<typeof ReplicaLoadSchema>, { $typeName: string }>;
}

function setUp(known: Record<string, Known>, avoided: readonly string[] = []) {
  const rooms = new Rooms({
    snapshot: () => snapshot,
    replica(_nodeId, replicaId): ReplicaView | undefined {
      const one = known[replicaId];
      if (!one) return undefined;
      return {
        state: one.state ?? ReplicaState.READY,
        capabilities: create(EngineCapabilitiesSchema, { parallelSequences: one.parallel ?? 0 }),
        load: one.load && create(ReplicaLoadSchema, one.load),
        inFlight: one.inFlight ?? 0,
      };
    },
    avoided: () => new Set(avoided),
  });
  const isFull = (): boolean => rooms.isFull("node-of-a1", "a1");
  return { rooms, isFull };
}

describe("a replica", () => {
  test.each<[string, Known]>([
    ["runs what it can decode at once and has one more at hand", { parallel: 4, inFlight: 5 }],
    ["does so for other routers", { parallel: 4, load: { running: 4, queued: 1 } }],
    ["has calls that its engine does not begin", { parallel: 64, load: { running: 3, queued: 1 } }],
    [
      "has no room in its KV cache",
      { load: { running: 2, kvUsedTokens: 900n, prefillBacklogTokens: 100n, kvTotalTokens: 1000n } },
    ],
    [
      "has prompts for seconds before it",
      { load: { running: 2, prefillBacklogTokens: 2_100n, prefillTokensPerS: 1_000 } },
    ],
  ])("is full that %s", (_name, a1) => {
    expect(setUp({ a1 }).isFull()).toBe(true);
  });

  test.each<[string, Known]>([
    ["is idle, whatever its report says of its cache", { load: { kvUsedTokens: 1000n, kvTotalTokens: 1000n } }],
    ["can have one more at hand", { parallel: 4, inFlight: 4, load: { running: 4 } }],
    ["does not say what it can take", { inFlight: 500 }],
  ])("has room that %s", (_name, a1) => {
    expect(setUp({ a1 }).isFull()).toBe(false);
  });

  test("that refused a call is full at as many as it had, until calls have ended well", () => {
    const known: Record<string, Known> = { a1: { inFlight: 2 } };
    const { rooms, isFull } = setUp(known);
    rooms.refused("node-of-a1", "a1");
    expect(isFull()).toBe(true);
    expect([...rooms.refusing()]).toEqual(["a1"]);
    known.a1 = { inFlight: 1 };
    expect(isFull()).toBe(false);
    expect(rooms.refusing().size).toBe(0);
    known.a1 = { inFlight: 2 };
    rooms.ended("a1");
    rooms.ended("a1");
    expect(isFull()).toBe(false);
  });
});

describe("a deployment", () => {
  const full: Known = { parallel: 1, inFlight: 2 };

  test("is free with one replica that has room, busy with none, cold with none that is ready", () => {
    expect(setUp({ a1: full, a2: {} }).rooms.of("a")).toBe("free");
    expect(setUp({ a1: full, a2: full }).rooms.of("a")).toBe("busy");
    expect(setUp({ a1: { state: ReplicaState.LOADING } }).rooms.of("a")).toBe("cold");
  });

  test("counts avoided replicas only when no other is ready", () => {
    expect(setUp({ a1: {}, a2: full }, ["a1"]).rooms.of("a")).toBe("busy");
    expect(setUp({ a1: {} }, ["a1"]).rooms.of("a")).toBe("free");
  });

  test("sends its calls on when it is cold and another deployment or a fallback model is ready, even if busy", () => {
    expect(setUp({ b1: full }).rooms.of("a")).toBe("free");
    expect(setUp({ c1: full }).rooms.of("a")).toBe("free");
    expect(setUp({ a1: full, b1: {} }).rooms.of("a")).toBe("busy");
  });

  test("says what its model's replicas are doing", () => {
    const { rooms } = setUp({ a1: { state: ReplicaState.LOADING }, a2: { state: ReplicaState.LOADING } });
    expect(rooms.describe("m")).toBe("2 loading, 1 without a link");
  });
});

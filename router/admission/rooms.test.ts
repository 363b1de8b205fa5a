import { create } from "@bufbuild/protobuf";
import { describe, expect, test } from "vitest";
import { SnapshotSchema } from "#gen/helixmesh/discovery/v1/discovery_pb.ts";
import { EngineCapabilitiesSchema, ReplicaLoadSchema, ReplicaState } from "#gen/helixmesh/type/v1/type_pb.ts";
import { ManualClock } from "#kernel/clock.ts";
import { Metrics } from "#kernel/metrics.ts";
import { seededRandom } from "#kernel/random.ts";
import { indexSnapshot } from "../discovery/snapshot.ts";
import { Fleet } from "../routing/fleet.ts";
import { PrefixIndex } from "../routing/prefix-index.ts";
import type { ReplicaView } from "../routing/replica-view.ts";
import { routingMetrics } from "../routing/routing-metrics.ts";
import { Rooms } from "./rooms.ts";

interface Known {
  readonly state?: ReplicaState;
  readonly progress?: number;
  readonly running?: number;
  readonly parallel?: number;
}

/** Replicas by name, "a1" of the deployment "a"; those that `known` leaves out have no link. */
function setUp(known: Record<string, Known>, avoided: readonly string[] = [], replicas = ["a1", "a2", "b1", "c1"]) {
  const snapshot = indexSnapshot(
    create(SnapshotSchema, {
      models: [{ name: "m" }, { name: "spare" }],
      deployments: [
        { name: "a", model: "m", routing: { fallbackModels: ["spare"] } },
        { name: "b", model: "m" },
        { name: "c", model: "spare" },
      ],
      replicas: replicas.map((replicaId) => ({
        replicaId,
        deployment: replicaId.slice(0, 1),
        nodeId: `n-${replicaId}`,
      })),
    }),
  );
  const views = new Map<string, ReplicaView>();
  const report = (replicaId: string, known: Known): void => {
    const { state = ReplicaState.READY, progress, running = 0, parallel = 1 } = known;
    const capabilities = create(EngineCapabilitiesSchema, { parallelSequences: parallel });
    views.set(replicaId, { state, progress, capabilities, load: create(ReplicaLoadSchema, { running }), inFlight: 0 });
  };
  for (const [replicaId, one] of Object.entries(known)) report(replicaId, one);
  const looks = { count: 0 };
  const lookup = (_nodeId: string, replicaId: string): ReplicaView | undefined => {
    looks.count += 1;
    return views.get(replicaId);
  };
  const clock = new ManualClock();
  const metrics = routingMetrics(new Metrics("test"));
  const prefixes = new PrefixIndex({ maxEntries: 1, random: seededRandom(1), metrics });
  const fleet = new Fleet({ lookup, prefixes, zone: "", zonePenaltyMs: 0, clock });
  fleet.follow(snapshot);
  const rooms = new Rooms({ snapshot: () => snapshot, fleet, lookup, avoided: () => new Set(avoided) });
  return { rooms, fleet, report, looks, clock };
}

const full: Known = { running: 2 };

describe("a deployment", () => {
  test("is free with one replica that has room, busy with none, cold with none that is ready", () => {
    expect(setUp({ a1: full, a2: {} }).rooms.of("a")).toBe("free");
    expect(setUp({ a1: full, a2: { running: 1 } }).rooms.of("a")).toBe("free");
    expect(setUp({ a1: full, a2: full }).rooms.of("a")).toBe("busy");
    expect(setUp({ a1: { state: ReplicaState.LOADING } }).rooms.of("a")).toBe("cold");
  });

  test("counts avoided replicas only when no other is ready", () => {
    const { rooms, fleet } = setUp({ a1: {}, a2: full }, ["a1"]);
    expect(rooms.of("a")).toBe("busy");
    expect(fleet.replica("a1")?.set).toBeDefined();
    expect(setUp({ a1: {} }, ["a1"]).rooms.of("a")).toBe("free");
  });

  test("sends its calls on when it is cold and another deployment or a fallback model is ready, even if busy", () => {
    expect(setUp({ b1: full }).rooms.of("a")).toBe("free");
    expect(setUp({ c1: full }).rooms.of("a")).toBe("free");
    expect(setUp({ a1: full, b1: {} }).rooms.of("a")).toBe("busy");
  });

  test("says what its model's replicas are doing", () => {
    const { rooms } = setUp({ a1: { state: ReplicaState.LOADING }, a2: { state: ReplicaState.LOADING } });
    expect(rooms.situation("m").text).toBe("2 loading, 1 without a link");
  });

  test("says how far they are, of several in one state the first, and which comes next", () => {
    const fetching = { state: ReplicaState.FETCHING, progress: 0.999 };
    const loading = { state: ReplicaState.LOADING, progress: 0.43 };
    const one = setUp({ a1: fetching, a2: loading, b1: {}, c1: {} }, [], ["a1", "a2", "c1"]).rooms;
    expect(one.situation("m")).toEqual({
      text: "1 fetching weights (100 %), 1 loading (43 %)",
      state: ReplicaState.LOADING,
      progress: 0.43,
      stageLeftMs: undefined,
    });
    const two = setUp({ a1: { ...loading, progress: 0.1 }, a2: loading }, [], ["a1", "a2"]).rooms;
    expect(two.situation("m").text).toBe("2 loading (at most 43 %)");
    expect(two.situationOfModelOf("b").text).toBe("2 loading (at most 43 %)");
    expect(setUp({}, [], []).rooms.situation("m")).toMatchObject({ text: "it has none", state: 0 });
  });

  test("says how long the first still takes at the pace of each since it was seen there", () => {
    const loading = (progress: number): Known => ({ state: ReplicaState.LOADING, progress });
    const { rooms, report, clock } = setUp({ a1: loading(0), a2: loading(0.5), b1: {} });
    expect(rooms.situation("m").stageLeftMs).toBeUndefined();
    clock.advance(10_000);
    report("a1", loading(0.25));
    report("a2", loading(0.75));
    expect(rooms.situation("m").stageLeftMs).toBe(10_000);
    report("a2", { state: ReplicaState.WARMING });
    expect(rooms.situation("m").stageLeftMs).toBe(30_000);
  });

  test("says of those in whose queue a call stands that they are busy", () => {
    const { rooms } = setUp({ a1: full, a2: { state: ReplicaState.LOADING, progress: 0.5 }, b1: {} });
    expect(rooms.situation("m", "a")).toEqual({
      text: "1 busy, 1 loading (50 %)",
      state: ReplicaState.READY,
      progress: undefined,
      stageLeftMs: undefined,
    });
    expect(rooms.situation("m").text).toBe("2 ready, 1 loading (50 %)");
  });

  test("is busy as soon as it is asked after loads that nobody has read", () => {
    const { rooms, report } = setUp({ a1: {}, a2: {} });
    report("a1", full);
    report("a2", full);
    expect(rooms.of("a")).toBe("busy");
  });

  test("has room again when a load says so, or one of this router's calls has ended", () => {
    const { rooms, fleet, report } = setUp({ a1: full, a2: { running: 1 } });
    fleet.replica("a2")?.sent(0);
    expect(rooms.of("a")).toBe("busy");
    fleet.replica("a2")?.ended();
    expect(rooms.of("a")).toBe("free");
    fleet.replica("a2")?.sent(0);
    expect(fleet.loaded("a1")).toBeUndefined();
    report("a1", { running: 1 });
    expect(fleet.loaded("a1")).toBe("a");
    expect(rooms.of("a")).toBe("free");
  });

  test.each([10, 4_000])(
    "of %i full replicas is asked without a look at any, and is told of room by looking at one",
    (count) => {
      const ids = Array.from({ length: count }, (_, index) => `a${index}`);
      const { rooms, fleet, report, looks } = setUp(Object.fromEntries(ids.map((id) => [id, full])), [], ids);
      looks.count = 0;
      for (let times = 0; times < 100; times++) expect(rooms.of("a")).toBe("busy");
      expect(looks.count).toBe(0);
      report("a7", {});
      fleet.loaded("a7");
      expect(rooms.of("a")).toBe("free");
      expect(looks.count).toBe(2);
    },
  );
});

describe("a replica that refused a call", () => {
  test("is full at as many as it had, until calls have ended well", () => {
    const { rooms, fleet, report } = setUp({ a1: { running: 2, parallel: 64 } });
    expect(rooms.of("a")).toBe("free");
    rooms.refused("a1");
    expect(rooms.of("a")).toBe("busy");
    expect([...rooms.refusing()]).toEqual(["a1"]);
    report("a1", { running: 1, parallel: 64 });
    fleet.loaded("a1");
    expect(rooms.of("a")).toBe("free");
    expect(rooms.refusing().size).toBe(0);
    report("a1", { running: 2, parallel: 64 });
    expect(rooms.of("a")).toBe("busy");
    rooms.ended("a1");
    rooms.ended("a1");
    expect(rooms.of("a")).toBe("free");
  });
});

import fc from "fast-check";
import { expect, test } from "vitest";
import { EngineKind } from "#gen/helixmesh/type/v1/type_pb.ts";
import { type PlacementPlan, place } from "./place.ts";
import {
  type PlacedReplica,
  type PlacementDeployment,
  type PlacementNode,
  type PlacementSnapshot,
  unfit,
} from "./snapshot.ts";

const runs = { numRuns: 400 };
const engines = [EngineKind.LLAMA_CPP, EngineKind.SIM];
const labels = fc.constantFrom<Record<string, string>>({}, { zone: "x" }, { zone: "y" });

const snapshots: fc.Arbitrary<PlacementSnapshot> = fc
  .record({ nodeCount: fc.integer({ min: 0, max: 6 }), deploymentCount: fc.integer({ min: 0, max: 4 }) })
  .chain(({ nodeCount, deploymentCount }) =>
    fc.record({
      nodes: fc.tuple(
        ...Array.from({ length: nodeCount }, (_, index) =>
          fc.record<PlacementNode>({
            id: fc.constant(`n${index}`),
            name: fc.constant(`node-${index}`),
            presence: fc.constantFrom("online", "online", "online", "away", "lost"),
            cordoned: fc.boolean(),
            labels,
            engines: fc.subarray(engines, { minLength: 1 }),
          }),
        ),
      ),
      deployments: fc.tuple(
        ...Array.from({ length: deploymentCount }, (_, index) =>
          fc.record<PlacementDeployment>({
            name: fc.constant(`d${index}`),
            replicas: fc.integer({ min: 0, max: 5 }),
            spec: fc.constantFrom("1", "2"),
            engine: fc.constantFrom(...engines),
            nodeLabels: labels,
            maxReplicasPerNode: fc.integer({ min: 1, max: 3 }),
          }),
        ),
      ),
      replicas: fc
        .array(
          fc.record({
            deployment: fc.integer({ min: 0, max: 4 }).map((index) => `d${index}`),
            // One more node than there is, so that some stand on a node that was deleted.
            nodeId: fc.integer({ min: 0, max: nodeCount }).map((index) => `n${index}`),
            spec: fc.constantFrom("1", "2"),
            createdAtMs: fc.integer({ min: 0, max: 3 }),
            draining: fc.boolean(),
            gone: fc.boolean(),
            ready: fc.boolean(),
          }),
          { maxLength: 12 },
        )
        .map((list) => list.map((replica, index) => Object.assign(replica, { id: `r${index}` }))),
    }),
  );

/** What the next snapshot looks like once the plan was carried out; `ready`: new replicas became ready meanwhile. */
function carryOut(snapshot: PlacementSnapshot, plan: PlacementPlan, ready: boolean, round: number): PlacementSnapshot {
  const specs = new Map(snapshot.deployments.map((deployment) => [deployment.name, deployment.spec]));
  const kept = snapshot.replicas
    .filter((replica) => !plan.remove.includes(replica.id))
    .map((replica): PlacedReplica => {
      const draining = replica.draining || plan.drain.includes(replica.id);
      return {
        ...replica,
        draining,
        gone: draining && (ready || replica.gone),
        ready: !draining && (ready || replica.ready),
      };
    });
  const created = plan.create.map((planned, index): PlacedReplica => ({
    id: `new-${round}-${index}`,
    deployment: planned.deployment,
    nodeId: planned.nodeId,
    spec: specs.get(planned.deployment) ?? "",
    createdAtMs: 1_000 + round,
    draining: false,
    gone: false,
    ready: false,
  }));
  return { ...snapshot, replicas: [...kept, ...created] };
}

function serving(snapshot: PlacementSnapshot, deployment: string, without: readonly string[] = []): number {
  const online = new Set(snapshot.nodes.filter((node) => node.presence === "online").map((node) => node.id));
  return snapshot.replicas.filter(
    (replica) =>
      replica.deployment === deployment &&
      replica.ready &&
      !replica.draining &&
      online.has(replica.nodeId) &&
      !without.includes(replica.id),
  ).length;
}

test("a node never gets more of one spec than it may hold", () => {
  fc.assert(
    fc.property(snapshots, (snapshot) => {
      const after = carryOut(snapshot, place(snapshot), false, 0);
      for (const deployment of snapshot.deployments) {
        for (const node of snapshot.nodes) {
          const count = (replicas: readonly PlacedReplica[]): number =>
            replicas.filter(
              (replica) =>
                replica.deployment === deployment.name &&
                replica.nodeId === node.id &&
                replica.spec === deployment.spec,
            ).length;
          const before = count(snapshot.replicas);
          expect(count(after.replicas)).toBeLessThanOrEqual(Math.max(before, deployment.maxReplicasPerNode));
        }
      }
    }),
    runs,
  );
});

test("a new replica stands on a node that fits it", () => {
  fc.assert(
    fc.property(snapshots, (snapshot) => {
      for (const planned of place(snapshot).create) {
        const node = snapshot.nodes.find((candidate) => candidate.id === planned.nodeId);
        const deployment = snapshot.deployments.find((candidate) => candidate.name === planned.deployment);
        expect(node && deployment && unfit(deployment, node)).toBe(undefined);
        expect(deployment).toBeDefined();
        expect(node).toBeDefined();
      }
    }),
    runs,
  );
});

test("a plan never takes what serves below what is wanted", () => {
  fc.assert(
    fc.property(snapshots, (snapshot) => {
      const plan = place(snapshot);
      for (const deployment of snapshot.deployments) {
        const before = serving(snapshot, deployment.name);
        const after = serving(snapshot, deployment.name, [...plan.drain, ...plan.remove]);
        expect(after).toBeGreaterThanOrEqual(Math.min(before, deployment.replicas));
      }
    }),
    runs,
  );
});

test("each replica is named at most once, and only replicas that exist", () => {
  fc.assert(
    fc.property(snapshots, (snapshot) => {
      const plan = place(snapshot);
      const named = [...plan.drain, ...plan.remove];
      expect(new Set(named).size).toBe(named.length);
      const known = new Set(snapshot.replicas.map((replica) => replica.id));
      expect(named.every((id) => known.has(id))).toBe(true);
    }),
    runs,
  );
});

test("the order of the lists does not matter", () => {
  fc.assert(
    fc.property(snapshots, (snapshot) => {
      const reversed = {
        nodes: [...snapshot.nodes].reverse(),
        deployments: [...snapshot.deployments].reverse(),
        replicas: [...snapshot.replicas].reverse(),
      };
      const sorted = (plan: PlacementPlan): PlacementPlan => ({
        ...plan,
        drain: [...plan.drain].sort(),
        remove: [...plan.remove].sort(),
      });
      expect(sorted(place(reversed))).toEqual(sorted(place(snapshot)));
    }),
    runs,
  );
});

test("wanted and placed come together in a few rounds, and then nothing changes any more", () => {
  fc.assert(
    fc.property(snapshots, (start) => {
      let snapshot = start;
      for (let round = 0; round < 6; round++) snapshot = carryOut(snapshot, place(snapshot), true, round);
      const plan = place(snapshot);
      expect(plan).toMatchObject({ create: [], drain: [], remove: [] });
      for (const deployment of snapshot.deployments) {
        const missing = plan.unplaced.find((entry) => entry.deployment === deployment.name)?.missing ?? 0;
        const lost = new Set(snapshot.nodes.filter((node) => node.presence === "lost").map((node) => node.id));
        const standing = snapshot.replicas.filter(
          (replica) => replica.deployment === deployment.name && !replica.draining && !lost.has(replica.nodeId),
        ).length;
        expect(standing).toBeGreaterThanOrEqual(deployment.replicas - missing);
      }
    }),
    runs,
  );
});

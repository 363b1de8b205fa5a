import { type MessageInitShape, create } from "@bufbuild/protobuf";
import { SnapshotSchema } from "#gen/helixmesh/discovery/v1/discovery_pb.ts";
import { PrefixDigestSchema } from "#gen/helixmesh/link/v1/link_pb.ts";
import { EngineCapabilitiesSchema, ReplicaLoadSchema, ReplicaState } from "#gen/helixmesh/type/v1/type_pb.ts";
import { ManualClock } from "#kernel/clock.ts";
import { Metrics } from "#kernel/metrics.ts";
import { seededRandom } from "#kernel/random.ts";
import { indexSnapshot } from "../discovery/snapshot.ts";
import { Fleet } from "./fleet.ts";
import type { PolicyName } from "./policies/index.ts";
import { PrefixIndex } from "./prefix-index.ts";
import type { ReplicaView } from "./replica-view.ts";
import { type Ask, type PickResult, type Picked, Routes } from "./routes.ts";
import { routingMetrics } from "./routing-metrics.ts";

type Capabilities = Exclude<MessageInitShape<typeof EngineCapabilitiesSchema>, { $typeName: string }>;
type Load = Exclude<MessageInitShape<typeof ReplicaLoadSchema>, { $typeName: string }>;

export const generates = { capability: "generate", parameter: "model" } as const;

/** Routes over links that the test plays: replica `r1` is on node `n1`, and so on. */
export class TestFleet {
  readonly clock = new ManualClock();
  readonly metrics = new Metrics("test");
  readonly fleet: Fleet;
  readonly routes: Routes;
  readonly prefixes: PrefixIndex;
  /** Looks at a replica's link. */
  lookups = 0;
  readonly #views = new Map<string, ReplicaView>();

  constructor(options: { readonly policy?: PolicyName; readonly seed?: number; readonly zone?: string } = {}) {
    const random = seededRandom(options.seed ?? 1);
    const metrics = routingMetrics(this.metrics);
    this.prefixes = new PrefixIndex({ maxEntries: 100_000, random, metrics });
    this.fleet = new Fleet({
      lookup: (_nodeId, replicaId) => {
        this.lookups += 1;
        return this.#views.get(replicaId);
      },
      prefixes: this.prefixes,
      zone: options.zone ?? "",
      zonePenaltyMs: 5,
      clock: this.clock,
    });
    this.routes = new Routes({
      fleet: this.fleet,
      prefixes: this.prefixes,
      policy: options.policy ?? "predicted-ttft",
      blockBytes: 256,
      clock: this.clock,
      random,
      metrics,
    });
  }

  /** Discovery says that there is this; the replicas of `replicas` belong to the deployment that they stand under. */
  discover(
    deployments: MessageInitShape<typeof SnapshotSchema>["deployments"],
    replicas: Readonly<Record<string, readonly string[]>>,
    zones: Readonly<Record<string, string>> = {},
  ): void {
    const all = Object.entries(replicas).flatMap(([deployment, ids]) =>
      ids.map((replicaId) => ({ replicaId, deployment, nodeId: replicaId.replace("r", "n") })),
    );
    const models = [...new Set((deployments ?? []).map(({ model = "" }) => model))].map((name) => ({ name }));
    const nodes = [...new Set(all.map(({ nodeId }) => nodeId))].map((nodeId) => ({
      nodeId,
      zone: zones[nodeId] ?? "",
    }));
    this.fleet.follow(
      indexSnapshot(create(SnapshotSchema, { models, deployments: deployments ?? [], replicas: all, nodes })),
    );
  }

  /** One deployment "d" of "pocket" with `count` idle replicas r1…, four sequences each. */
  ready(count: number): readonly string[] {
    const ids = Array.from({ length: count }, (_, index) => `r${index + 1}`);
    this.discover([{ name: "d", model: "pocket" }], { d: ids });
    for (const id of ids) this.link(id);
    return ids;
  }

  link(replicaId: string, capabilities: Capabilities = {}, state: ReplicaState = ReplicaState.READY): void {
    this.#views.set(replicaId, {
      state,
      capabilities: create(EngineCapabilitiesSchema, { generate: true, parallelSequences: 4, ...capabilities }),
      load: undefined,
      inFlight: 0,
    });
    this.fleet.linkChanged(replicaId.replace("r", "n"));
  }

  unlink(replicaId: string): void {
    this.#views.delete(replicaId);
    this.fleet.linkChanged(replicaId.replace("r", "n"));
  }

  /** The agent reports its load, and the router has looked at it. */
  load(replicaId: string, load: Load): void {
    this.loadUnseen(replicaId, load);
    this.fleet.linkChanged(replicaId.replace("r", "n"));
  }

  /** The agent reports its load. */
  loadUnseen(replicaId: string, load: Load): void {
    const view = this.#views.get(replicaId);
    if (!view) throw new Error(`${replicaId} has no link`);
    this.#views.set(replicaId, { ...view, load: create(ReplicaLoadSchema, { replicaId, ...load }) });
  }

  holds(replicaId: string, hashes: readonly number[]): void {
    const digest = create(PrefixDigestSchema, { replicaId, sequence: 1n, snapshot: true, added: [...hashes] });
    this.prefixes.apply(replicaId.replace("r", "n"), digest);
  }

  pick(ask: Partial<Ask> = {}): PickResult {
    return this.routes.pick({ model: "pocket", needs: [generates], promptBytes: 1_000, ...ask });
  }

  picked(ask: Partial<Ask> = {}): Picked {
    const result = this.pick(ask);
    if (result.kind !== "picked") throw new Error(`the pick gave ${result.kind}`);
    return result.picked;
  }

  /** Replicas picked by `count` calls that are not dispatched. */
  replicas(count: number, ask: Partial<Ask> = {}): string[] {
    return Array.from({ length: count }, () => this.picked(ask).replicaId);
  }
}

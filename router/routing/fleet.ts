import type { Deployment } from "#gen/helixmesh/discovery/v1/discovery_pb.ts";
import { ReplicaState } from "#gen/helixmesh/type/v1/type_pb.ts";
import type { Clock } from "#kernel/clock.ts";
import type { IndexedSnapshot } from "../discovery/snapshot.ts";
import { DeploymentPool } from "./deployment-pool.ts";
import type { Room } from "./fill.ts";
import type { PrefixIndex } from "./prefix-index.ts";
import { Replica } from "./replica.ts";
import type { ReplicaLookup, ReplicaView } from "./replica-view.ts";

export interface FleetOptions {
  /** What the links know. */
  readonly lookup: ReplicaLookup;
  readonly prefixes: PrefixIndex;
  /** This router's failure zone; empty: unknown. */
  readonly zone: string;
  /** What going to another zone costs in a prediction. */
  readonly zonePenaltyMs: number;
  readonly clock: Clock;
}

/**
 * All replicas as this router knows them, for routing and admission. Follows discovery and the links as they change, so
 * that a call costs a look at a handful of replicas, whatever their number.
 */
export class Fleet {
  readonly #options: FleetOptions;
  readonly #pools = new Map<string, DeploymentPool>();
  readonly #replicas = new Map<string, Replica>();
  readonly #byNode = new Map<string, Set<Replica>>();
  #snapshot: IndexedSnapshot | undefined;

  constructor(options: FleetOptions) {
    this.#options = options;
  }

  /** The snapshot changed. Costs a look at every replica; calls cost none. */
  follow(snapshot: IndexedSnapshot): void {
    const before = this.#snapshot;
    this.#snapshot = snapshot;
    if (before?.nodes !== snapshot.nodes) {
      for (const nodeId of before?.nodes.keys() ?? []) {
        if (!snapshot.nodes.has(nodeId)) this.#options.prefixes.forget(nodeId);
      }
      for (const replica of this.#replicas.values()) if (this.#situate(replica)) this.#look(replica);
    }
    if (before?.replicas === snapshot.replicas && before.deployments === snapshot.deployments) return;
    for (const replica of this.#replicas.values()) {
      const now = snapshot.replicas.get(replica.replicaId);
      const stays = now?.nodeId === replica.nodeId && now.deployment === replica.deployment;
      if (!stays || !snapshot.deployments.has(replica.deployment)) this.#drop(replica);
    }
    for (const name of this.#pools.keys()) if (!snapshot.deployments.has(name)) this.#pools.delete(name);
    for (const discovered of snapshot.replicas.values()) {
      if (this.#replicas.has(discovered.replicaId) || !snapshot.deployments.has(discovered.deployment)) continue;
      this.#take(new Replica(discovered));
    }
  }

  /** A link, or a replica on it, takes calls now or no longer; of all nodes when none is named. */
  linkChanged(nodeId?: string): void {
    const replicas = nodeId === undefined ? this.#replicas.values() : (this.#byNode.get(nodeId) ?? []);
    for (const replica of replicas) this.#look(replica);
  }

  /**
   * A load of the replica came. That of a full one is read at once, so that nobody who has room is taken to be full;
   * others' loads come with every decode step and are read when somebody looks. Returns the deployment where there may
   * be room now.
   */
  loaded(replicaId: string): string | undefined {
    const replica = this.#replicas.get(replicaId);
    if (replica?.fill === "full") this.refresh(replica, this.#options.clock.monotonicMs());
    return replica && replica.fill !== "full" ? replica.deployment : undefined;
  }

  /** Whether one more call can go to the deployment now; to an `avoided` replica only when no other one is ready. */
  room(deployment: string, avoided: ReadonlySet<string>): Room {
    const pool = this.pool(deployment);
    const nowMs = this.#options.clock.monotonicMs();
    const refresh = (replica: Replica): void => this.refresh(replica, nowMs);
    if (avoided.size === 0) return pool.room(refresh);
    const hidden = this.ready(avoided).filter((replica) => replica.deployment === deployment);
    for (const replica of hidden) pool.hide(replica);
    const room = pool.room(refresh);
    for (const replica of hidden) pool.show(replica);
    return room === "cold" && hidden.length > 0 ? pool.room(refresh) : room;
  }

  replica(replicaId: string): Replica | undefined {
    return this.#replicas.get(replicaId);
  }

  /** As `Replica.stageLeftMs`, of what the link knows of it now. */
  stageLeftMs(replicaId: string, view: ReplicaView | undefined): number | undefined {
    return this.#replicas.get(replicaId)?.stageLeftMs(view, this.#options.clock.monotonicMs());
  }

  /** Those of them that take calls. */
  ready(replicaIds: ReadonlySet<string>): readonly Replica[] {
    const ready: Replica[] = [];
    for (const replicaId of replicaIds) {
      const replica = this.#replicas.get(replicaId);
      if (replica?.set) ready.push(replica);
    }
    return ready;
  }

  /** What serves the model. */
  deployments(model: string): readonly Deployment[] {
    return this.#snapshot?.deploymentsOfModel.get(model) ?? none;
  }

  pool(deployment: string): DeploymentPool {
    let pool = this.#pools.get(deployment);
    if (!pool) this.#pools.set(deployment, (pool = new DeploymentPool()));
    return pool;
  }

  /** Takes over a replica's newest load. */
  refresh(replica: Replica, nowMs: number): void {
    this.#report(replica, this.#options.lookup(replica.nodeId, replica.replicaId), nowMs);
  }

  #take(replica: Replica): void {
    this.#replicas.set(replica.replicaId, replica);
    let onNode = this.#byNode.get(replica.nodeId);
    if (!onNode) this.#byNode.set(replica.nodeId, (onNode = new Set()));
    onNode.add(replica);
    this.#situate(replica);
    this.#look(replica);
  }

  #drop(replica: Replica): void {
    this.pool(replica.deployment).dismiss(replica);
    this.#replicas.delete(replica.replicaId);
    const onNode = this.#byNode.get(replica.nodeId);
    onNode?.delete(replica);
    if (onNode?.size === 0) this.#byNode.delete(replica.nodeId);
  }

  /** Puts the replica where its link says it belongs. */
  #look(replica: Replica): void {
    const view = this.#options.lookup(replica.nodeId, replica.replicaId);
    const pool = this.pool(replica.deployment);
    const nowMs = this.#options.clock.monotonicMs();
    replica.stageLeftMs(view, nowMs);
    if (view?.state !== ReplicaState.READY || !view.capabilities) return pool.dismiss(replica);
    this.#report(replica, view, nowMs);
    pool.admit(replica);
  }

  #report(replica: Replica, view: ReplicaView | undefined, nowMs: number): void {
    if (!view || !replica.report(view, nowMs)) return;
    this.pool(replica.deployment).rates.observeLoad(replica.running, replica.stepTimeUs, replica.prefillTokensPerS);
  }

  /** Where the replica's node is, as seen from here. False when that is what was known before. */
  #situate(replica: Replica): boolean {
    const { zone, zonePenaltyMs } = this.#options;
    const there = this.#snapshot?.nodes.get(replica.nodeId)?.zone ?? "";
    const known = zone !== "" && there !== "";
    const near = known && there === zone;
    const awayMs = known && !near ? zonePenaltyMs : 0;
    if (replica.near === near && replica.awayMs === awayMs) return false;
    replica.near = near;
    replica.awayMs = awayMs;
    return true;
  }
}

const none: readonly Deployment[] = [];

import { ReplicaState } from "#gen/helixmesh/type/v1/type_pb.ts";
import type { IndexedSnapshot } from "../discovery/snapshot.ts";
import type { Room } from "../routing/fill.ts";
import type { Fleet } from "../routing/fleet.ts";
import type { Replica } from "../routing/replica.ts";
import type { ReplicaLookup } from "../routing/replica-view.ts";
import { fallbackModels } from "../routing/split.ts";

export interface RoomsOptions {
  readonly snapshot: () => IndexedSnapshot;
  readonly fleet: Fleet;
  /** What the links know, also of replicas that take no calls. */
  readonly lookup: ReplicaLookup;
  /** Replicas that get calls only when no other is ready. */
  readonly avoided: () => ReadonlySet<string>;
}

/** Where one more call can go now. Who is full is routing's rule (../routing/fill.ts), and asked of no replica twice. */
export class Rooms {
  readonly #options: RoomsOptions;
  /** Those that refused a call; few. */
  readonly #refusers = new Set<Replica>();

  constructor(options: RoomsOptions) {
    this.#options = options;
  }

  /** The queue for calls to a model of which no replica is ready. */
  lineOf(model: string): string {
    return this.#options.snapshot().deploymentsOfModel.get(model)?.[0]?.name ?? "";
  }

  /** Where none of the deployment's replicas is ready, its calls may go to another deployment. */
  of(deployment: string): Room {
    const { fleet, avoided } = this.#options;
    const avoid = avoided();
    const room = fleet.room(deployment, avoid);
    if (room !== "cold") return room;
    return this.#others(deployment).some((other) => fleet.room(other, avoid) !== "cold") ? "free" : "cold";
  }

  /** The replica refused a call for want of room, and the call has left it. */
  refused(replicaId: string): void {
    const replica = this.#options.fleet.replica(replicaId);
    if (!replica) return;
    replica.refused();
    this.#refusers.add(replica);
  }

  /** Replicas that have refused calls and are as full now as they were then. */
  refusing(): ReadonlySet<string> {
    if (this.#refusers.size === 0) return nobody;
    const { fleet } = this.#options;
    const refusing = new Set<string>();
    for (const replica of this.#refusers) {
      const { replicaId, calls, mostCalls } = replica;
      const isOver = mostCalls === Number.POSITIVE_INFINITY || fleet.replica(replicaId) !== replica;
      if (isOver) this.#refusers.delete(replica);
      else if (calls >= mostCalls) refusing.add(replicaId);
    }
    return refusing;
  }

  /** A call ended well. */
  ended(replicaId: string): void {
    if (this.#refusers.size > 0) this.#options.fleet.replica(replicaId)?.served();
  }

  /** Where the replicas are that a call waits for, such as "1 loading, 1 without a link"; for people. */
  describe(model: string): string {
    const { snapshot, lookup } = this.#options;
    const { deploymentsOfModel, replicasOfDeployment } = snapshot();
    const counts = new Map<string, number>();
    for (const { name } of deploymentsOfModel.get(model) ?? []) {
      for (const { nodeId, replicaId } of replicasOfDeployment.get(name) ?? []) {
        const view = lookup(nodeId, replicaId);
        const state = view === undefined ? "without a link" : (stateNames[view.state] ?? "in an unknown state");
        counts.set(state, (counts.get(state) ?? 0) + 1);
      }
    }
    if (counts.size === 0) return "it has none";
    return [...counts].map(([state, count]) => `${count} ${state}`).join(", ");
  }

  /** Of the same model, and of those that its calls may fall back to. */
  #others(deployment: string): string[] {
    const { deployments, deploymentsOfModel } = this.#options.snapshot();
    const siblings = deploymentsOfModel.get(deployments.get(deployment)?.model ?? "") ?? [];
    const fallbacks = fallbackModels(siblings).flatMap((model) => deploymentsOfModel.get(model) ?? []);
    return [...siblings, ...fallbacks].map(({ name }) => name).filter((name) => name !== deployment);
  }
}

const nobody: ReadonlySet<string> = new Set();

const stateNames: Readonly<Record<number, string>> = {
  [ReplicaState.ABSENT]: "not begun",
  [ReplicaState.FETCHING]: "fetching weights",
  [ReplicaState.LOADING]: "loading",
  [ReplicaState.WARMING]: "warming up",
  [ReplicaState.READY]: "ready",
  [ReplicaState.DRAINING]: "draining",
  [ReplicaState.FAILED]: "failed",
};

import { type ReplicaLoad, ReplicaState } from "#gen/helixmesh/type/v1/type_pb.ts";
import type { IndexedSnapshot } from "../discovery/snapshot.ts";
import type { ReplicaLookup, ReplicaView } from "../routing/replica-view.ts";
import { fallbackModels } from "../routing/split.ts";
import { LearnedLimit } from "./learned-limit.ts";
import type { Room } from "./queues.ts";

/** Calls that may wait inside an agent, so that its engine has the next one at hand when one ends. */
const atHand = 1;
/** Prompts that a replica evaluates first: with more than this before it, another call does not get ahead by going there. */
const longestBacklogMs = 2_000;

export interface RoomsOptions {
  readonly snapshot: () => IndexedSnapshot;
  /** What the links know. */
  readonly replica: ReplicaLookup;
  /** Replicas that get calls only when no other is ready. */
  readonly avoided: () => ReadonlySet<string>;
}

/**
 * Which replicas can take one more call now: measured from what their agents report and what this router has there, and
 * learnt from refusals. Nothing is configured.
 */
export class Rooms {
  readonly #options: RoomsOptions;
  /** Of replicas that refused a call. */
  readonly #limits = new Map<string, LearnedLimit>();

  constructor(options: RoomsOptions) {
    this.#options = options;
  }

  /** The queue for calls to a model of which no replica is ready. */
  lineOf(model: string): string {
    return this.#options.snapshot().deploymentsOfModel.get(model)?.[0]?.name ?? "";
  }

  /** Looks at the deployment's replicas until one has room; where none is ready, calls may go to another deployment. */
  of(deployment: string): Room {
    const room = this.#ofReplicas(deployment);
    if (room !== "cold") return room;
    return this.#others(deployment).some((other) => this.#ofReplicas(other) !== "cold") ? "free" : "cold";
  }

  /** Also of one that takes no calls. */
  isFull(nodeId: string, replicaId: string): boolean {
    const view = this.#options.replica(nodeId, replicaId);
    return view === undefined || this.#isFull(replicaId, view);
  }

  /** The replica refused a call for want of room. */
  refused(nodeId: string, replicaId: string): void {
    const view = this.#options.replica(nodeId, replicaId);
    if (!view) return;
    let limit = this.#limits.get(replicaId);
    if (!limit) this.#limits.set(replicaId, (limit = new LearnedLimit()));
    limit.refused(callsOn(view));
  }

  /** Replicas that have refused calls and are as full now as they were then. */
  refusing(): ReadonlySet<string> {
    if (this.#limits.size === 0) return nobody;
    const { snapshot, replica } = this.#options;
    const { replicas } = snapshot();
    const refusing = new Set<string>();
    for (const [replicaId, limit] of this.#limits) {
      if (limit.calls === Number.POSITIVE_INFINITY) this.#limits.delete(replicaId);
      const view = replica(replicas.get(replicaId)?.nodeId ?? "", replicaId);
      if (view && callsOn(view) >= limit.calls) refusing.add(replicaId);
    }
    return refusing;
  }

  /** A call ended well. */
  ended(replicaId: string): void {
    this.#limits.get(replicaId)?.ended();
  }

  keep(replicas: { has(replicaId: string): boolean }): void {
    for (const replicaId of this.#limits.keys()) if (!replicas.has(replicaId)) this.#limits.delete(replicaId);
  }

  /** Where the replicas are that a call waits for, such as "1 loading, 1 without a link"; for people. */
  describe(model: string): string {
    const counts = new Map<string, number>();
    const deployments = this.#options.snapshot().deploymentsOfModel.get(model) ?? [];
    for (const { view } of deployments.flatMap(({ name }) => [...this.#replicas(name)])) {
      const name = view === undefined ? "without a link" : (stateNames[view.state] ?? "in an unknown state");
      counts.set(name, (counts.get(name) ?? 0) + 1);
    }
    if (counts.size === 0) return "it has none";
    return [...counts].map(([name, count]) => `${count} ${name}`).join(", ");
  }

  #ofReplicas(deployment: string): Room {
    const avoided = this.#options.avoided();
    let best: Room = "cold";
    let avoidedBest: Room = "cold";
    for (const { replicaId, view } of this.#replicas(deployment)) {
      if (view?.state !== ReplicaState.READY) continue;
      const room = this.#isFull(replicaId, view) ? "busy" : "free";
      if (avoided.has(replicaId)) avoidedBest = avoidedBest === "free" ? "free" : room;
      else if (room === "free") return "free";
      else best = "busy";
    }
    return best === "cold" ? avoidedBest : best;
  }

  /** Of the same model, and of those that its calls may fall back to. */
  #others(deployment: string): string[] {
    const { deployments, deploymentsOfModel } = this.#options.snapshot();
    const siblings = deploymentsOfModel.get(deployments.get(deployment)?.model ?? "") ?? [];
    const fallbacks = fallbackModels(siblings).flatMap((model) => deploymentsOfModel.get(model) ?? []);
    return [...siblings, ...fallbacks].map(({ name }) => name).filter((name) => name !== deployment);
  }

  *#replicas(deployment: string): Generator<{ replicaId: string; view: ReplicaView | undefined }> {
    const { snapshot, replica } = this.#options;
    for (const { nodeId, replicaId } of snapshot().replicasOfDeployment.get(deployment) ?? []) {
      yield { replicaId, view: replica(nodeId, replicaId) };
    }
  }

  #isFull(replicaId: string, view: ReplicaView): boolean {
    const calls = callsOn(view);
    // Whatever is reported, an idle replica has to be asked.
    if (calls === 0) return false;
    const parallel = view.capabilities?.parallelSequences ?? 0;
    if (parallel > 0 && calls >= parallel + atHand) return true;
    if (calls >= (this.#limits.get(replicaId)?.calls ?? Number.POSITIVE_INFINITY)) return true;
    return view.load !== undefined && isHeldUp(view.load);
  }
}

const nobody: ReadonlySet<string> = new Set();

/** Own calls are known without delay; those of other routers are in the report. */
function callsOn({ load, inFlight }: ReplicaView): number {
  return Math.max(inFlight, (load?.running ?? 0) + (load?.queued ?? 0));
}

/** The engine does not begin what it has: its batch, its KV cache or its prefill is full. */
function isHeldUp(load: ReplicaLoad): boolean {
  if (load.queued > 0) return true;
  if (load.kvTotalTokens > 0n && load.kvUsedTokens + load.prefillBacklogTokens >= load.kvTotalTokens) return true;
  const backlogMs = (Number(load.prefillBacklogTokens) * 1_000) / load.prefillTokensPerS;
  return load.prefillTokensPerS > 0 && backlogMs > longestBacklogMs;
}

const stateNames: Readonly<Record<number, string>> = {
  [ReplicaState.ABSENT]: "not begun",
  [ReplicaState.FETCHING]: "fetching weights",
  [ReplicaState.LOADING]: "loading",
  [ReplicaState.WARMING]: "warming up",
  [ReplicaState.READY]: "ready",
  [ReplicaState.DRAINING]: "draining",
  [ReplicaState.FAILED]: "failed",
};

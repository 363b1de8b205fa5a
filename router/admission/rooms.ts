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

/** Where the replicas are that a call waits for. */
export interface Situation {
  /** Such as "2 busy, 1 loading (43 %), 1 without a link"; for people. */
  readonly text: string;
  /** Of the one that is farthest on its way; unspecified when there is none with a link. */
  readonly state: ReplicaState;
  /** How far that one is, 0 to 1; undefined where nobody knows. */
  readonly progress: number | undefined;
  /** Until a replica is through with what it is doing, at its pace so far; undefined where that is unknown. */
  readonly stageLeftMs: number | undefined;
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

  /** Of a call in the line of `deployment`, or one that waits for whichever replica of its model comes first. */
  situation(model: string, deployment?: string): Situation {
    if (deployment !== undefined && this.of(deployment) !== "cold") return this.#look([deployment], "busy");
    const deployments = this.#options.snapshot().deploymentsOfModel.get(model) ?? [];
    return this.#look(
      deployments.map(({ name }) => name),
      "ready",
    );
  }

  /** As `situation`, of the model that the deployment serves. */
  situationOfModelOf(deployment: string): Situation {
    return this.situation(this.#options.snapshot().deployments.get(deployment)?.model ?? "");
  }

  /** Costs a look at every replica. `readyIs`: what ready ones are called. */
  #look(deployments: readonly string[], readyIs: string): Situation {
    const { snapshot, lookup, fleet } = this.#options;
    const { replicasOfDeployment } = snapshot();
    let stageLeftMs: number | undefined;
    const groups = new Map<ReplicaState | undefined, { count: number; progress: number | undefined }>();
    for (const { nodeId, replicaId } of deployments.flatMap((name) => replicasOfDeployment.get(name) ?? [])) {
      const view = lookup(nodeId, replicaId);
      const group = groups.get(view?.state) ?? { count: 0, progress: undefined };
      groups.set(view?.state, group);
      group.count += 1;
      if (view?.progress === undefined) continue;
      group.progress = Math.max(group.progress ?? 0, view.progress);
      const leftMs = fleet.stageLeftMs(replicaId, view);
      if (leftMs !== undefined) stageLeftMs = Math.min(stageLeftMs ?? leftMs, leftMs);
    }
    if (groups.size === 0) return noReplica;
    const words = [...groups].map(([state, { count, progress }]) => {
      const name = state === ReplicaState.READY ? readyIs : nameOf(state);
      return progress === undefined ? `${count} ${name}` : `${count} ${name} (${percent(progress, count)})`;
    });
    const state = farthestFirst.find((one) => groups.has(one)) ?? ReplicaState.UNSPECIFIED;
    return { text: words.join(", "), state, progress: groups.get(state)?.progress, stageLeftMs };
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

const noReplica: Situation = {
  text: "it has none",
  state: ReplicaState.UNSPECIFIED,
  progress: undefined,
  stageLeftMs: undefined,
};

const farthestFirst: readonly ReplicaState[] = [
  ReplicaState.READY,
  ReplicaState.WARMING,
  ReplicaState.LOADING,
  ReplicaState.FETCHING,
  ReplicaState.ABSENT,
  ReplicaState.FAILED,
  ReplicaState.DRAINING,
];

/** Of several replicas the progress is that of the first. */
function percent(progress: number, replicas: number): string {
  const text = `${Math.round(progress * 100)} %`;
  return replicas === 1 ? text : `at most ${text}`;
}

function nameOf(state: ReplicaState | undefined): string {
  return state === undefined ? "without a link" : (stateNames[state] ?? "in an unknown state");
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

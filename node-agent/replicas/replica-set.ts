import { create } from "@bufbuild/protobuf";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { type ReplicaInfo, ReplicaInfoSchema } from "#gen/helixmesh/link/v1/link_pb.ts";
import { type DesiredReplica, type ReplicaStatus, ReplicaStatusSchema } from "#gen/helixmesh/node/v1/node_pb.ts";
import type { ReplicaLoad } from "#gen/helixmesh/type/v1/type_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import type { CallTarget } from "../call/index.ts";
import type { PrefixNews, PrefixOptions } from "../engines/prefix-news.ts";
import { reconcile } from "./reconcile.ts";
import { Replica, type ReplicaParts } from "./replica.ts";
import { wireState } from "./state.ts";

export interface ReplicaSetOptions extends Omit<ReplicaParts, "onChange" | "prefixes"> {
  /** How long a replica that is no longer wanted may finish its calls. */
  readonly drainTimeoutMs: number;
  /** A replica's description changed; `removed` when it is gone. */
  readonly onChange: (replica: ReplicaInfo, removed: boolean) => void;
  /** As in ReplicaParts, by replica. */
  readonly prefixes?: PrefixOptions & { onChange(replicaId: string, change: PrefixNews | "snapshot"): void };
}

/** All replicas on the node, held to the desired state. */
export class ReplicaSet {
  readonly #options: ReplicaSetOptions;
  readonly #replicas = new Map<string, Replica>();
  #desired: readonly DesiredReplica[] = [];
  #closing = false;

  constructor(options: ReplicaSetOptions) {
    this.#options = options;
  }

  /** Full state: replaces the desired state before. */
  setDesired(desired: readonly DesiredReplica[]): void {
    this.#desired = desired;
    this.#reconcile();
  }

  /** Throws a MeshError that says why a replica takes no calls. */
  target(replicaId: string): CallTarget {
    const replica = this.#replicas.get(replicaId);
    if (replica === undefined) {
      throw new MeshError(Reason.NO_READY_REPLICA, "The replica is not on this node any more; try another one.");
    }
    replica.checkReady();
    return replica;
  }

  infos(): ReplicaInfo[] {
    return [...this.#replicas.values()].map(describe);
  }

  loads(): ReplicaLoad[] {
    return [...this.#replicas.values()].map((replica) => replica.readLoad());
  }

  ids(): Iterable<string> {
    return this.#replicas.keys();
  }

  /** Prompt prefixes that the replica's engine holds now; undefined when there is no such replica. */
  heldPrefixes(replicaId: string): Uint32Array | undefined {
    return this.#replicas.get(replicaId)?.heldPrefixes();
  }

  heldPrefixCount(replicaId: string): number {
    return this.#replicas.get(replicaId)?.heldPrefixCount ?? 0;
  }

  statuses(): ReplicaStatus[] {
    return [...this.#replicas.values()].map((replica) =>
      create(ReplicaStatusSchema, {
        replicaId: replica.desired.replicaId,
        ...wireState(replica.state),
        load: replica.readLoad(),
        engineRestarts: replica.engineRestarts,
      }),
    );
  }

  /** Drains all of them; resolves when every engine is gone. */
  async close(timeoutMs: number): Promise<void> {
    this.#closing = true;
    await Promise.all([...this.#replicas.values()].map((replica) => replica.drain("the node shuts down", timeoutMs)));
  }

  #reconcile(): void {
    if (this.#closing) return;
    const actual = [...this.#replicas.values()].map((replica) => ({
      replicaId: replica.desired.replicaId,
      draining: replica.state.kind === "draining",
    }));
    for (const action of reconcile(this.#desired, actual)) {
      if (action.kind === "add") this.#add(action.desired);
      else void this.#remove(action.replicaId);
    }
  }

  #add(desired: DesiredReplica): void {
    const { prefixes } = this.#options;
    const replica: Replica = new Replica(desired, {
      ...this.#options,
      prefixes: prefixes && { ...prefixes, onChange: (change) => prefixes.onChange(desired.replicaId, change) },
      onChange: () => this.#options.onChange(describe(replica), false),
    });
    this.#replicas.set(desired.replicaId, replica);
    this.#options.logger.info("replica added", { replicaId: desired.replicaId, model: desired.model });
    this.#options.onChange(describe(replica), false);
  }

  async #remove(replicaId: string): Promise<void> {
    const replica = this.#replicas.get(replicaId);
    if (replica === undefined) return;
    await replica.drain("no longer wanted on this node", this.#options.drainTimeoutMs);
    this.#replicas.delete(replicaId);
    this.#options.logger.info("replica removed", { replicaId });
    this.#options.onChange(describe(replica), true);
    this.#reconcile();
  }
}

function describe(replica: Replica): ReplicaInfo {
  const { kind } = replica.state;
  const { state, capabilities, progress } = wireState(replica.state);
  const { replicaId } = replica.desired;
  const hasProgress = kind === "fetching" || kind === "loading";
  return create(ReplicaInfoSchema, { replicaId, state, capabilities, ...(hasProgress && { progress }) });
}

import { create } from "@bufbuild/protobuf";
import {
  type CallDelta,
  CallDeltaSchema,
  type CallEnd,
  type ReplicaInfo,
  type StepBatch,
  StepBatchSchema,
} from "#gen/helixmesh/link/v1/link_pb.ts";
import type { ReplicaLoad } from "#gen/helixmesh/type/v1/type_pb.ts";

export interface OutboxLimits {
  /** Response bytes of one call that may wait for the router. */
  readonly callBytes: number;
  /** Response bytes of all calls of one link together. */
  readonly linkBytes: number;
}

/** What became of a delta: it waits to be sent, its call has too much waiting, or the whole link has. */
export type PushOutcome = "queued" | "call-full" | "link-full";

/**
 * What one router has not been sent yet. While the transport is busy, further deltas of a call join the one that
 * waits, so a slow reader gets fewer and larger messages; past a limit nothing more is kept and the caller of `push`
 * ends the call by name. Loads and replica descriptions are full state: a newer one replaces the one that waits.
 */
export class Outbox {
  readonly #limits: OutboxLimits;
  #deltas = new Map<number, { delta: CallDelta; bytes: number }>();
  #loads = new Map<string, ReplicaLoad>();
  #replicas = new Map<string, ReplicaInfo>();
  #bytes = 0;

  constructor(limits: OutboxLimits) {
    this.#limits = limits;
  }

  get isEmpty(): boolean {
    return this.#deltas.size === 0 && this.#loads.size === 0 && this.#replicas.size === 0;
  }

  push(number: number, responses: readonly Uint8Array[], completionTokens: number): PushOutcome {
    let bytes = 0;
    for (const response of responses) bytes += response.length;
    const waiting = this.#deltas.get(number);
    if (waiting !== undefined && waiting.bytes + bytes > this.#limits.callBytes) return "call-full";
    if (this.#bytes + bytes > this.#limits.linkBytes) return "link-full";
    this.#bytes += bytes;
    const { delta } = this.#entry(number, bytes);
    for (const response of responses) delta.responses.push(response);
    delta.completionTokens += completionTokens;
    return "queued";
  }

  /** Ends are always kept: one a call, and small. */
  end(number: number, end: CallEnd): void {
    this.#entry(number, 0).delta.end = end;
  }

  setLoad(load: ReplicaLoad): void {
    this.#loads.set(load.replicaId, load);
  }

  setReplica(replica: ReplicaInfo): void {
    this.#replicas.set(replica.replicaId, replica);
  }

  /** All that waits, as one message; empty when nothing does (a heartbeat). */
  take(): StepBatch {
    const batch = create(StepBatchSchema);
    for (const { delta } of this.#deltas.values()) batch.deltas.push(delta);
    if (this.#loads.size > 0) batch.loads.push(...this.#loads.values());
    if (this.#replicas.size > 0) batch.replicas.push(...this.#replicas.values());
    this.#deltas = new Map();
    this.#loads = new Map();
    this.#replicas = new Map();
    this.#bytes = 0;
    return batch;
  }

  #entry(number: number, bytes: number): { delta: CallDelta; bytes: number } {
    let entry = this.#deltas.get(number);
    if (entry === undefined) {
      entry = { delta: create(CallDeltaSchema, { number }), bytes: 0 };
      this.#deltas.set(number, entry);
    }
    entry.bytes += bytes;
    return entry;
  }
}

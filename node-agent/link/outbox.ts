import { toBinary } from "@bufbuild/protobuf";
import {
  CallDeltaSchema,
  type CallEnd,
  CallEndSchema,
  ConnectResponseSchema,
  type HeldCall,
  HeldCallSchema,
  PrefixDigestSchema,
  type ReplicaInfo,
  ReplicaInfoSchema,
  StepBatchSchema,
} from "#gen/helixmesh/link/v1/link_pb.ts";
import { ProtoWriter, lengthDelimitedBytes, stringBytes, uintBytes } from "#kernel/proto-writer.ts";
import type { Digest } from "./prefix-feed.ts";

export interface OutboxLimits {
  /** Response bytes of one call that may wait for the router. */
  readonly callBytes: number;
  /** Response bytes of all calls of one link together. */
  readonly linkBytes: number;
}

/** What became of a delta: it waits to be sent, its call has too much waiting, or the whole link has. */
export type PushOutcome = "queued" | "call-full" | "link-full";

interface Delta {
  /** In order, as they were pushed: not copied before they are written. */
  readonly responses: Uint8Array[];
  /** Of `responses` alone, and as they are encoded. */
  bytes: number;
  encodedBytes: number;
  completionTokens: number;
  end: Uint8Array | undefined;
}

const step = StepBatchSchema.field;
const delta = CallDeltaSchema.field;
const digest = PrefixDigestSchema.field;

/** One writer for all links: a message is written and copied out within one call. */
const writer = new ProtoWriter();

/**
 * What one router has not been sent yet. While the transport is busy, further deltas of a call join the one that
 * waits, so a slow reader gets fewer and larger messages; past a limit nothing more is kept and the caller of `push`
 * ends the call by name. Loads and replica descriptions are full state: a newer one replaces the one that waits.
 */
export class Outbox {
  readonly #limits: OutboxLimits;
  #deltas = new Map<number, Delta>();
  /** Encoded. */
  #loads = new Map<string, Uint8Array>();
  /** As they were last sent. */
  readonly #sentLoads = new Map<string, Uint8Array>();
  #replicas = new Map<string, Uint8Array>();
  #digests: readonly Digest[] = [];
  /** Encoded, by key and call id: the newest word on a call is the one that counts. */
  #held = new Map<string, Uint8Array>();
  /** Replicas that the waiting deltas come from. */
  readonly #stepped = new Set<string>();
  #bytes = 0;

  constructor(limits: OutboxLimits) {
    this.#limits = limits;
  }

  get isEmpty(): boolean {
    return this.#deltas.size + this.#loads.size + this.#replicas.size + this.#digests.length + this.#held.size === 0;
  }

  /** Replicas whose deltas wait. */
  get steppedReplicas(): ReadonlySet<string> {
    return this.#stepped;
  }

  push(number: number, replicaId: string, responses: readonly Uint8Array[], completionTokens: number): PushOutcome {
    let bytes = 0;
    for (const response of responses) bytes += response.length;
    const waiting = this.#deltas.get(number);
    if (waiting !== undefined && waiting.bytes + bytes > this.#limits.callBytes) return "call-full";
    if (this.#bytes + bytes > this.#limits.linkBytes) return "link-full";
    this.#bytes += bytes;
    const entry = waiting ?? this.#add(number, replicaId);
    entry.bytes += bytes;
    add(entry, responses, completionTokens);
    return "queued";
  }

  /** What a call said before it came to this link: in memory all the same, and so under no limit of the link's. */
  replay(number: number, replicaId: string, responses: readonly Uint8Array[], completionTokens: number): void {
    add(this.#add(number, replicaId), responses, completionTokens);
  }

  /** Ends are always kept: one a call, and small. */
  end(number: number, replicaId: string, end: CallEnd): void {
    const entry = this.#deltas.get(number) ?? this.#add(number, replicaId);
    entry.end = toBinary(CallEndSchema, end);
  }

  /** One encoded ReplicaLoad; nothing is sent when it says what the router knows. */
  setLoad(replicaId: string, load: Uint8Array): void {
    const sent = this.#sentLoads.get(replicaId);
    if (sent !== undefined && Buffer.compare(sent, load) === 0) this.#loads.delete(replicaId);
    else this.#loads.set(replicaId, load);
  }

  /** Replicas that are gone need no memory here. */
  keepLoadsOf(replicaIds: ReadonlyMap<string, unknown>): void {
    for (const id of this.#sentLoads.keys()) if (!replicaIds.has(id)) this.#sentLoads.delete(id);
  }

  setReplica(replica: ReplicaInfo): void {
    this.#replicas.set(replica.replicaId, toBinary(ReplicaInfoSchema, replica));
  }

  setDigests(digests: readonly Digest[]): void {
    this.#digests = digests;
  }

  setHeld(news: HeldCall): void {
    this.#held.set(`${news.keyId}\n${news.callId}`, toBinary(HeldCallSchema, news));
  }

  /** All that waits, as one encoded ConnectResponse; an empty step when nothing does. Lent until the next call of any. */
  take(): { readonly bytes: Uint8Array; readonly length: number } {
    let length = 0;
    for (const [number, entry] of this.#deltas) length += lengthDelimitedBytes(deltaBytes(number, entry));
    for (const load of this.#loads.values()) length += lengthDelimitedBytes(load.length);
    for (const replica of this.#replicas.values()) length += lengthDelimitedBytes(replica.length);
    for (const one of this.#digests) length += lengthDelimitedBytes(digestBytes(one));
    for (const held of this.#held.values()) length += lengthDelimitedBytes(held.length);
    writer.clear();
    writer.lengthDelimited(ConnectResponseSchema.field.step.number, length);
    for (const [number, entry] of this.#deltas) writeDelta(number, entry);
    for (const [id, load] of this.#loads) {
      writer.raw(step.loads.number, load);
      this.#sentLoads.set(id, load);
    }
    for (const replica of this.#replicas.values()) writer.raw(step.replicas.number, replica);
    for (const one of this.#digests) writeDigest(one);
    for (const held of this.#held.values()) writer.raw(step.heldCalls.number, held);
    this.#deltas = new Map();
    this.#stepped.clear();
    if (this.#loads.size > 0) this.#loads = new Map();
    if (this.#replicas.size > 0) this.#replicas = new Map();
    this.#digests = [];
    if (this.#held.size > 0) this.#held = new Map();
    this.#bytes = 0;
    return writer;
  }

  #add(number: number, replicaId: string): Delta {
    const entry: Delta = { responses: [], bytes: 0, encodedBytes: 0, completionTokens: 0, end: undefined };
    this.#deltas.set(number, entry);
    this.#stepped.add(replicaId);
    return entry;
  }
}

function add(entry: Delta, responses: readonly Uint8Array[], completionTokens: number): void {
  entry.completionTokens += completionTokens;
  for (const response of responses) {
    entry.responses.push(response);
    entry.encodedBytes += lengthDelimitedBytes(response.length);
  }
}

function deltaBytes(number: number, { encodedBytes, completionTokens, end }: Delta): number {
  const endBytes = end === undefined ? 0 : lengthDelimitedBytes(end.length);
  return uintBytes(number) + encodedBytes + endBytes + uintBytes(completionTokens);
}

function writeDelta(number: number, entry: Delta): void {
  writer.lengthDelimited(step.deltas.number, deltaBytes(number, entry));
  writer.uint(delta.number.number, number);
  for (const response of entry.responses) writer.raw(delta.responses.number, response);
  if (entry.end !== undefined) writer.raw(delta.end.number, entry.end);
  writer.uint(delta.completionTokens.number, entry.completionTokens);
}

function digestBytes({ replicaId, sequence, snapshot, added, removed }: Digest): number {
  let bytes = stringBytes(replicaId) + uintBytes(sequence) + uintBytes(snapshot ? 1 : 0);
  for (const { length } of [added, removed]) if (length > 0) bytes += lengthDelimitedBytes(length * 4);
  return bytes;
}

function writeDigest(one: Digest): void {
  writer.lengthDelimited(step.prefixes.number, digestBytes(one));
  writer.string(digest.replicaId.number, one.replicaId);
  writer.uint(digest.sequence.number, one.sequence);
  writer.uint(digest.snapshot.number, one.snapshot ? 1 : 0);
  writer.fixed32s(digest.added.number, one.added);
  writer.fixed32s(digest.removed.number, one.removed);
}

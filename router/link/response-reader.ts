import { type DescMessage, type MessageShape, fromBinary } from "@bufbuild/protobuf";
import {
  type AgentHello,
  AgentHelloSchema,
  type CallEnd,
  ConnectResponseSchema,
  CallDeltaSchema,
  type HeldCall,
  HeldCallSchema,
  type PrefixDigest,
  PrefixDigestSchema,
  type ReplicaInfo,
  ReplicaInfoSchema,
  StepBatchSchema,
} from "#gen/helixmesh/link/v1/link_pb.ts";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { ReplicaLoadSchema } from "#gen/helixmesh/type/v1/type_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { ProtoScanner } from "#kernel/proto-scanner.ts";
import { WireType } from "#kernel/proto-writer.ts";
import { decodeCallEnd } from "./call-end.ts";

/** Who hears what a message says. Bytes are lent for the call. */
export interface ResponseSink {
  onHello(hello: AgentHello): void;
  onDrain(): void;
  /** False: the step is not wanted, and none of the rest is called. */
  onStep(): boolean;
  onReplica(info: ReplicaInfo): void;
  /** One encoded ReplicaLoad. */
  onLoad(replicaId: string, bytes: Buffer, start: number, end: number): void;
  onPrefixes(digest: PrefixDigest): void;
  onHeld(news: HeldCall): void;
  /** Where the deltas of a call go; undefined when it is over. */
  call(number: number): DeltaSink | undefined;
  /** After all else of its last delta. */
  onCallEnd(number: number, end: CallEnd): void;
  onStepEnd(deltas: number): void;
}

export interface DeltaSink {
  onResponse(bytes: Buffer, start: number, end: number): void;
  onTokens(count: number, nowMs: number): void;
}

// So that a renumbered field shows here and not on a live link.
const frame = numbersOf(ConnectResponseSchema.field);
const step = numbersOf(StepBatchSchema.field);
const delta = numbersOf(CallDeltaSchema.field);
const loadReplicaId = ReplicaLoadSchema.field.replicaId.number;

// https://protobuf.dev/programming-guides/encoding/#structure
const numberTag = (delta.number << 3) | WireType.VARINT;
const responseTag = (delta.responses << 3) | WireType.LEN;
const tokensTag = (delta.completionTokens << 3) | WireType.VARINT;
/** Numbers below it take one byte. */
const moreBytes = 0x80;

/**
 * Reads what an agent says. Deltas come for every token, so they are read where they lie and nothing is allocated for
 * them; the rest is decoded. State comes before deltas, whatever their order in the message: a call that ends with
 * its replica must find that replica gone when it looks for another.
 */
export class ResponseReader {
  readonly #sink: ResponseSink;
  readonly #message = new ProtoScanner();
  readonly #step = new ProtoScanner();
  readonly #inner = new ProtoScanner();
  /** One look at the clock serves all tokens of a step. */
  #nowMs = 0;

  constructor(sink: ResponseSink) {
    this.#sink = sink;
  }

  /** One ConnectResponse, which came at `nowMs` of the monotonic clock. @throws MeshError for what is none */
  read(bytes: Buffer, start: number, end: number, nowMs: number): void {
    this.#nowMs = nowMs;
    const message = this.#message;
    message.reset(bytes, start, end);
    while (message.next()) {
      if (message.is(frame.step)) this.#readStep(bytes, message.start, message.end);
      else if (message.is(frame.hello)) this.#sink.onHello(decode(AgentHelloSchema, bytes, message.start, message.end));
      else if (message.is(frame.drain)) this.#sink.onDrain();
    }
  }

  #readStep(bytes: Buffer, start: number, end: number): void {
    const sink = this.#sink;
    if (!sink.onStep()) return;
    const scanner = this.#step;
    scanner.reset(bytes, start, end);
    let deltas = 0;
    while (scanner.next()) {
      if (scanner.is(step.deltas)) deltas += 1;
      else if (scanner.is(step.loads)) this.#readLoad(bytes, scanner.start, scanner.end);
      else if (scanner.is(step.replicas)) sink.onReplica(decode(ReplicaInfoSchema, bytes, scanner.start, scanner.end));
      else if (scanner.is(step.prefixes)) {
        sink.onPrefixes(decode(PrefixDigestSchema, bytes, scanner.start, scanner.end));
      } else if (scanner.is(step.heldCalls)) sink.onHeld(decode(HeldCallSchema, bytes, scanner.start, scanner.end));
    }
    scanner.reset(bytes, start, end);
    for (let left = deltas; left > 0 && scanner.next();) {
      if (!scanner.is(step.deltas)) continue;
      left -= 1;
      this.#readDelta(bytes, scanner.start, scanner.end);
    }
    sink.onStepEnd(deltas);
  }

  #readLoad(bytes: Buffer, start: number, end: number): void {
    const scanner = this.#inner;
    scanner.reset(bytes, start, end);
    let replicaId = "";
    while (scanner.next())
      if (scanner.is(loadReplicaId)) replicaId = bytes.toString("utf8", scanner.start, scanner.end);
    this.#sink.onLoad(replicaId, bytes, start, end);
  }

  #readDelta(bytes: Buffer, start: number, end: number): void {
    if (!this.#readToken(bytes, start, end)) this.#readAnyDelta(bytes, start, end);
  }

  /** For what nearly all deltas are: a number, one short response and how many tokens it is. False: it is another. */
  #readToken(bytes: Buffer, start: number, end: number): boolean {
    if (end - start < 6 || bytes[start] !== numberTag) return false;
    let at = start + 1;
    let byte = bytes[at++] as number;
    let number = byte & 0x7f;
    for (let shift = 7; byte >= moreBytes && shift < 28 && at < end; shift += 7) {
      byte = bytes[at++] as number;
      number |= (byte & 0x7f) << shift;
    }
    if (byte >= moreBytes || at + 2 > end || bytes[at] !== responseTag) return false;
    const length = bytes[at + 1] as number;
    const from = at + 2;
    const to = from + length;
    if (length >= moreBytes || to + 2 !== end || bytes[to] !== tokensTag) return false;
    const tokens = bytes[to + 1] as number;
    if (tokens >= moreBytes) return false;
    const call = this.#sink.call(number);
    if (call === undefined) return true;
    call.onResponse(bytes, from, to);
    if (tokens > 0) call.onTokens(tokens, this.#nowMs);
    return true;
  }

  #readAnyDelta(bytes: Buffer, start: number, end: number): void {
    const scanner = this.#inner;
    scanner.reset(bytes, start, end);
    // Encoders write the number first; protobuf allows any order.
    const isFirst = scanner.next() && scanner.field === delta.number;
    const number = isFirst ? scanner.value : this.#findNumber(bytes, start, end);
    const call = this.#sink.call(number);
    if (call === undefined) return;
    let tokens = 0;
    let endStart = -1;
    let endEnd = -1;
    while (scanner.next()) {
      switch (scanner.field) {
        case delta.responses:
          call.onResponse(bytes, scanner.start, scanner.end);
          break;
        case delta.end:
          endStart = scanner.start;
          endEnd = scanner.end;
          break;
        case delta.completionTokens:
          tokens = scanner.value;
          break;
        default:
      }
    }
    if (tokens > 0) call.onTokens(tokens, this.#nowMs);
    if (endStart >= 0) this.#sink.onCallEnd(number, decodeEnd(bytes, endStart, endEnd));
  }

  /** Leaves the scanner before the first field again. */
  #findNumber(bytes: Buffer, start: number, end: number): number {
    const scanner = this.#inner;
    let number = 0;
    scanner.reset(bytes, start, end);
    while (scanner.next()) if (scanner.field === delta.number) number = scanner.value;
    scanner.reset(bytes, start, end);
    return number;
  }
}

/** No bytes of the message are kept: they are lent. */
function decode<D extends DescMessage>(schema: D, bytes: Buffer, start: number, end: number): MessageShape<D> {
  try {
    return fromBinary(schema, bytes.subarray(start, end), { readUnknownFields: false });
  } catch (cause) {
    throw malformed(schema.name, cause);
  }
}

function decodeEnd(bytes: Buffer, start: number, end: number): CallEnd {
  try {
    return decodeCallEnd(bytes, start, end);
  } catch (cause) {
    throw malformed("CallEnd", cause);
  }
}

function malformed(what: string, cause: unknown): MeshError {
  return new MeshError(Reason.INVALID_REQUEST, `The agent sent a malformed ${what}.`, { cause });
}

function numbersOf<F extends Record<string, { readonly number: number }>>(
  fields: F,
): { readonly [K in keyof F]: number } {
  return Object.fromEntries(Object.entries(fields).map(([name, field]) => [name, field.number])) as {
    [K in keyof F]: number;
  };
}

import { fromBinary } from "@bufbuild/protobuf";
import {
  type Delta,
  type Finished,
  FinishedSchema,
  GenerateResponseSchema,
  type Started,
  StartedSchema,
} from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { ProtoScanner } from "#kernel/proto-scanner.ts";
import { decodeUsage } from "#kernel/usage-bytes.ts";

/** What an answer is made of; every `GenerateResponse.event` is one. */
export type AnswerEvent =
  | { readonly case: "started"; readonly value: Pick<Started, "model"> }
  | { readonly case: "delta"; readonly value: Delta }
  | { readonly case: "finished"; readonly value: Pick<Finished, "usage" | "unrepeatable"> }
  /** The router's own, which does not come this way, or one that a newer agent sent. */
  | { readonly case: "waiting" | undefined };

const { started, finished } = GenerateResponseSchema.field;
const { model } = StartedSchema.field;
const { usage, unrepeatable } = FinishedSchema.field;

const outer = new ProtoScanner();
const inner = new ProtoScanner();

/** Reads an encoded GenerateResponse. What every call has once is read by hand: decoding it costs as much as its answer. */
export function readEvent(bytes: Uint8Array, start: number, end: number): AnswerEvent {
  outer.reset(bytes, start, end);
  if (outer.next() && outer.end === end) {
    if (outer.is(started.number)) return { case: "started", value: readStarted(bytes, outer.start, end) };
    if (outer.is(finished.number)) return { case: "finished", value: readFinished(bytes, outer.start, end) };
  }
  return fromBinary(GenerateResponseSchema, bytes.subarray(start, end)).event;
}

function readStarted(bytes: Uint8Array, start: number, end: number): Pick<Started, "model"> {
  let name = "";
  inner.reset(bytes, start, end);
  while (inner.next()) {
    if (!inner.is(model.number)) continue;
    name = Buffer.from(bytes.buffer, bytes.byteOffset + inner.start, inner.end - inner.start).toString();
  }
  return { model: name };
}

function readFinished(bytes: Uint8Array, start: number, end: number): Pick<Finished, "usage" | "unrepeatable"> {
  const read: Pick<Finished, "usage" | "unrepeatable"> = { unrepeatable: false };
  inner.reset(bytes, start, end);
  while (inner.next()) {
    if (inner.is(usage.number)) read.usage = decodeUsage(bytes, inner.start, inner.end);
    else if (inner.field === unrepeatable.number) read.unrepeatable = inner.value !== 0;
  }
  return read;
}

import { create, toBinary } from "@bufbuild/protobuf";
import {
  type FinishReason,
  GenerateResponseSchema,
  type TokenLogprob,
  type ToolCallDelta,
} from "#gen/helixmesh/inference/v1/inference_pb.ts";
import type { Usage } from "#gen/helixmesh/type/v1/type_pb.ts";

export interface ChoiceDelta {
  readonly choiceIndex: number;
  readonly text: string;
  readonly tokenIds: readonly number[];
  readonly logprobs: readonly TokenLogprob[];
  readonly toolCalls: readonly ToolCallDelta[];
  readonly finishReason: FinishReason;
}

export interface StartedFields {
  readonly callId: string;
  readonly model: string;
  readonly promptTokens: number;
  readonly cachedTokens: number;
  readonly nodeId: string;
}

/** GenerateResponse as bytes: made once here, relayed as they are by the router. */
export function encodeStarted(value: StartedFields): Uint8Array {
  return toBinary(GenerateResponseSchema, create(GenerateResponseSchema, { event: { case: "started", value } }));
}

export function encodeFinished(finishReasons: readonly FinishReason[], usage: Usage): Uint8Array {
  const value = { finishReasons: [...finishReasons], usage };
  return toBinary(GenerateResponseSchema, create(GenerateResponseSchema, { event: { case: "finished", value } }));
}

export function encodeDelta(delta: ChoiceDelta): Uint8Array {
  if (delta.logprobs.length === 0 && delta.toolCalls.length === 0) return encodePlainDelta(delta);
  const { logprobs, toolCalls, tokenIds, ...rest } = delta;
  const value = { ...rest, tokenIds: [...tokenIds], logprobs: [...logprobs], toolCalls: [...toolCalls] };
  return toBinary(GenerateResponseSchema, create(GenerateResponseSchema, { event: { case: "delta", value } }));
}

const textEncoder = new TextEncoder();
/** Grows to the largest delta seen; only used within one call of the function below. */
let scratch = new Uint8Array(4_096);

/**
 * The delta of nearly every token, written by hand: the generic encoder costs several times as much, per token and
 * sequence. Field numbers are those of helixmesh.inference.v1.Delta; a test holds the two encoders equal.
 * https://protobuf.dev/programming-guides/encoding/
 */
function encodePlainDelta({ choiceIndex, text, tokenIds, finishReason }: ChoiceDelta): Uint8Array {
  // Three bytes a UTF-16 unit, five a varint, and less than 64 for tags and the rest.
  const bound = text.length * 3 + tokenIds.length * 5 + 64;
  if (scratch.length < bound) scratch = new Uint8Array(bound * 2);
  // The body begins after room for the outer tag and length (1 + 5 bytes).
  let at = 6;
  if (choiceIndex !== 0) {
    scratch[at++] = 0x08;
    at = writeVarint(choiceIndex, at);
  }
  if (text !== "") {
    scratch[at++] = 0x12;
    at = writeVarint(utf8Length(text), at);
    at += textEncoder.encodeInto(text, scratch.subarray(at)).written;
  }
  if (tokenIds.length > 0) {
    scratch[at++] = 0x1a;
    let length = 0;
    for (const id of tokenIds) length += varintLength(id);
    at = writeVarint(length, at);
    for (const id of tokenIds) at = writeVarint(id, at);
  }
  if (finishReason !== 0) {
    scratch[at++] = 0x30;
    at = writeVarint(finishReason, at);
  }
  const length = at - 6;
  const start = 5 - varintLength(length);
  scratch[start] = 0x12;
  writeVarint(length, start + 1);
  return scratch.slice(start, at);
}

function writeVarint(value: number, at: number): number {
  let rest = value >>> 0;
  while (rest > 127) {
    scratch[at++] = (rest & 127) | 128;
    rest >>>= 7;
  }
  scratch[at++] = rest;
  return at;
}

function varintLength(value: number): number {
  const rest = value >>> 0;
  if (rest < 0x80) return 1;
  if (rest < 0x4000) return 2;
  if (rest < 0x200000) return 3;
  return rest < 0x10000000 ? 4 : 5;
}

/** A lone surrogate becomes U+FFFD, as TextEncoder writes it: three bytes. */
function utf8Length(text: string): number {
  let length = 0;
  for (let index = 0; index < text.length; index++) {
    const unit = text.charCodeAt(index);
    if (unit < 0x80) length += 1;
    else if (unit < 0x800) length += 2;
    else if (unit >= 0xd800 && unit < 0xdc00 && isLowSurrogate(text.charCodeAt(index + 1))) {
      length += 4;
      index++;
    } else length += 3;
  }
  return length;
}

/** False for NaN, which `charCodeAt` gives past the end. */
function isLowSurrogate(unit: number): boolean {
  return unit >= 0xdc00 && unit < 0xe000;
}

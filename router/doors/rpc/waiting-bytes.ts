import { create, toBinary } from "@bufbuild/protobuf";
import { WireType } from "@bufbuild/protobuf/wire";
import { GenerateResponseSchema, type Waiting } from "#gen/helixmesh/inference/v1/inference_pb.ts";

const waitingTag = (GenerateResponseSchema.field.waiting.number << 3) | WireType.LengthDelimited;

/** As a GenerateResponse. */
export function waitingBytes(value: Waiting): Uint8Array {
  return toBinary(GenerateResponseSchema, create(GenerateResponseSchema, { event: { case: "waiting", value } }));
}

/** Of an encoded GenerateResponse: it is no part of the answer. */
export function isWaiting(encoded: Uint8Array): boolean {
  return encoded[0] === waitingTag;
}

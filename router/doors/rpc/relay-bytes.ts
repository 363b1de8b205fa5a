import { create, fromBinary } from "@bufbuild/protobuf";
import { WireType } from "@bufbuild/protobuf/wire";
import { type GenerateResponse, GenerateResponseSchema } from "#gen/helixmesh/inference/v1/inference_pb.ts";

/**
 * A GenerateResponse whose serialisation is exactly `encoded`, made without decoding: an agent's bytes travel as an
 * unknown field, which protobuf writes back as it is. Every field of the message has a one-byte tag and is
 * length-delimited (its oneof holds messages only), so the first byte is the tag and the rest its length and payload.
 */
export function relayedResponse(encoded: Uint8Array): GenerateResponse {
  const message = create(GenerateResponseSchema);
  const tag = encoded[0];
  if (tag === undefined) return message;
  const lengthDelimited: number = WireType.LengthDelimited;
  if ((tag & 7) !== lengthDelimited || tag > 0x7f) return decodedResponse(encoded);
  message.$unknown = [{ no: tag >>> 3, wireType: WireType.LengthDelimited, data: encoded.subarray(1) }];
  return message;
}

/** For protocols that are not binary protobuf: JSON needs the fields. */
export function decodedResponse(encoded: Uint8Array): GenerateResponse {
  return fromBinary(GenerateResponseSchema, encoded);
}

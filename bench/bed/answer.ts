import { create, toBinary } from "@bufbuild/protobuf";
import { FinishReason, GenerateResponseSchema } from "#gen/helixmesh/inference/v1/inference_pb.ts";

// Every engine of the test bed answers every call alike, so that a client can tell a token that is missing, repeated or
// out of order, and a hot loop has nothing to encode.

export function tokenText(index: number): string {
  return ` t${index}`;
}

export function answerText(tokens: number): string {
  let text = "";
  for (let index = 0; index < tokens; index++) text += tokenText(index);
  return text;
}

/** `GenerateResponse` with token `index`, encoded; the last one of an answer carries its finish reason. */
export function deltaBytes(index: number, last: boolean): Uint8Array {
  return encodeOnce(last ? lastDeltas : deltas, index, () => {
    const finishReason = last ? FinishReason.LENGTH : FinishReason.UNSPECIFIED;
    const value = { text: tokenText(index), tokenIds: [1_000 + index], finishReason };
    return toBinary(GenerateResponseSchema, create(GenerateResponseSchema, { event: { case: "delta", value } }));
  });
}

export function finishedBytes(promptTokens: number, completionTokens: number): Uint8Array {
  const value = { finishReasons: [FinishReason.LENGTH], usage: { promptTokens, completionTokens } };
  return toBinary(GenerateResponseSchema, create(GenerateResponseSchema, { event: { case: "finished", value } }));
}

export function startedBytes(callId: string, model: string, promptTokens: number, cachedTokens: number): Uint8Array {
  const value = { callId, model, promptTokens, cachedTokens };
  return toBinary(GenerateResponseSchema, create(GenerateResponseSchema, { event: { case: "started", value } }));
}

const deltas: Uint8Array[] = [];
const lastDeltas: Uint8Array[] = [];

function encodeOnce(kept: Uint8Array[], index: number, encode: () => Uint8Array): Uint8Array {
  return (kept[index] ??= encode());
}

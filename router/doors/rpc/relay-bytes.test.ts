import { type MessageInitShape, create, toBinary } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { FinishReason, GenerateResponseSchema } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { decodedResponse, relayedResponse } from "./relay-bytes.ts";

const events: MessageInitShape<typeof GenerateResponseSchema>["event"][] = [
  { case: "started", value: { callId: "call_1", model: "pocket", promptTokens: 7 } },
  { case: "delta", value: { text: "Tokyo", tokenIds: [1, 2], logprobs: [{ token: "x", logprob: -0.5 }] } },
  { case: "delta", value: { text: "é".repeat(10_000) } },
  { case: "delta", value: {} },
  { case: "finished", value: { finishReasons: [FinishReason.STOP], usage: { completionTokens: 3 } } },
];

test.each(events)("relayed bytes are the agent's bytes: $case", (event) => {
  const encoded = toBinary(GenerateResponseSchema, create(GenerateResponseSchema, event && { event }));
  expect(toBinary(GenerateResponseSchema, relayedResponse(encoded))).toEqual(encoded);
  expect(toBinary(GenerateResponseSchema, decodedResponse(encoded))).toEqual(encoded);
});

test("fields of a newer agent pass through", () => {
  const newer = Uint8Array.of(0x12, 0x03, 0x0a, 0x01, 0x61, 0x7a, 0x02, 0x08, 0x01);
  expect(toBinary(GenerateResponseSchema, relayedResponse(newer))).toEqual(newer);
});

test("an empty message stays empty", () => {
  expect(toBinary(GenerateResponseSchema, relayedResponse(new Uint8Array()))).toEqual(new Uint8Array());
});

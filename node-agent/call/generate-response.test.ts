import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import fc from "fast-check";
import { expect, test } from "vitest";
import { GenerateResponseSchema } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { encodeDelta } from "./generate-response.ts";

test("writes a plain delta byte for byte as the generic encoder does", () => {
  const delta = fc.record({
    choiceIndex: fc.nat(16),
    text: fc.string({ unit: "grapheme", maxLength: 300 }),
    tokenIds: fc.array(fc.nat(2 ** 32 - 1), { maxLength: 20 }),
    finishReason: fc.constantFrom(0, 1, 2, 3),
  });
  fc.assert(
    fc.property(delta, (value) => {
      const generic = toBinary(
        GenerateResponseSchema,
        create(GenerateResponseSchema, { event: { case: "delta", value } }),
      );
      expect(encodeDelta({ ...value, logprobs: [], toolCalls: [] })).toEqual(generic);
    }),
    { numRuns: 300 },
  );
});

test("writes a text that is longer than its buffer", () => {
  const text = "ü😀".repeat(10_000);
  const bytes = encodeDelta({ choiceIndex: 0, text, tokenIds: [], finishReason: 0, logprobs: [], toolCalls: [] });
  expect(fromBinary(GenerateResponseSchema, bytes).event).toMatchObject({ case: "delta", value: { text } });
});

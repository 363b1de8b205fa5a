import { type MessageInitShape, create, toBinary } from "@bufbuild/protobuf";
import { describe, expect, test } from "vitest";
import { type DeltaSchema, FinishReason, GenerateResponseSchema } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { PlainDelta } from "./plain-delta.ts";

type Delta = Exclude<MessageInitShape<typeof DeltaSchema>, { $typeName: string }>;

function encode(delta: Delta): Uint8Array {
  return toBinary(GenerateResponseSchema, create(GenerateResponseSchema, { event: { case: "delta", value: delta } }));
}

function read(encoded: Uint8Array) {
  const reader = new PlainDelta();
  // Somewhere in a larger buffer, as a link lends it.
  const lent = Buffer.concat([Buffer.from([0x12, 0x12]), encoded, Buffer.from([0x12, 0xff])]);
  const ok = reader.read(lent, 2, 2 + encoded.length);
  if (!ok) return undefined;
  const { text, json, choiceIndex, finishReason } = reader;
  return { text, json, choiceIndex, finishReason };
}

describe("a plain delta", () => {
  test.each([
    "",
    " token",
    'a "quoted" \\ path',
    "tab\tline\nend\u0000",
    "é🙂 wörld",
    "\u007f\u2028",
    "x".repeat(300),
    "\ud83d\ude42".repeat(200),
  ])("has the text %j and its JSON", (text) => {
    const tokenIds = [1, 300, 70_000];
    expect(read(encode({ text, tokenIds, choiceIndex: 3 }))).toEqual({
      text,
      json: JSON.stringify(text),
      choiceIndex: 3,
      finishReason: FinishReason.UNSPECIFIED,
    });
  });

  test("may have no field at all", () => {
    expect(read(encode({}))).toMatchObject({ text: "", json: '""', choiceIndex: 0 });
  });

  test("may say why its choice ended", () => {
    expect(read(encode({ text: "a", finishReason: FinishReason.LENGTH }))).toMatchObject({
      text: "a",
      finishReason: FinishReason.LENGTH,
    });
    expect(read(encode({ text: "b" }))?.finishReason).toBe(FinishReason.UNSPECIFIED);
  });

  test.each<Delta>([{ text: "a", logprobs: [{ token: "a" }] }, { toolCalls: [{ name: "f" }] }])(
    "is not one with more than text: %j",
    (delta) => {
      expect(read(encode(delta))).toBeUndefined();
    },
  );

  test("is no other event, and nothing malformed", () => {
    const started = create(GenerateResponseSchema, { event: { case: "started", value: { model: "m" } } });
    expect(read(toBinary(GenerateResponseSchema, started))).toBeUndefined();
    expect(read(new Uint8Array())).toBeUndefined();
    const whole = encode({ text: "abc", tokenIds: [1, 2] });
    for (let length = 1; length < whole.length; length++) expect(read(whole.subarray(0, length))).toBeUndefined();
    expect(read(Uint8Array.of(...whole, 0x7a, 0x00))).toBeUndefined();
    // The text's length goes beyond the message; the text comes twice.
    expect(read(Uint8Array.of(0x12, 3, 0x12, 9, 0x61))).toBeUndefined();
    expect(read(Uint8Array.of(0x12, 6, 0x12, 1, 0x61, 0x12, 1, 0x62))).toBeUndefined();
  });
});

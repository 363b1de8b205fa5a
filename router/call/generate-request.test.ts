import { type MessageInitShape, create, fromBinary, toBinary } from "@bufbuild/protobuf";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { GenerateRequestSchema, Role } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { readGenerateRequest } from "./generate-request.ts";

type Init = MessageInitShape<typeof GenerateRequestSchema>;

const user = { role: Role.USER, content: "Hi, wörld 🙂" };
const assistant = { role: Role.ASSISTANT, toolCalls: [{ id: "1", name: "t", argumentsJson: "{}" }] };
const all = { role: Role.TOOL, content: "c", name: "n", toolCallId: "i" };
const requests: [string, Init][] = [
  ["an empty one", {}],
  ["a prompt", { model: "m", input: { case: "prompt", value: "Once upon a time" }, maxOutputTokens: 5_000_000 }],
  ["a long prompt", { input: { case: "prompt", value: "é".repeat(300_000) }, choiceCount: 3 }],
  ["an empty prompt", { input: { case: "prompt", value: "" }, maxOutputTokens: 0 }],
  [
    "a byte order mark and a replacement character",
    { model: "\u{feff}m", input: { case: "prompt", value: "\u{fffd}" } },
  ],
  ["a chat", { model: "m", input: { case: "chat", value: { messages: [user] } }, maxOutputTokens: 1, choiceCount: 1 }],
  ["a conversation", { input: { case: "chat", value: { messages: [user, all, {}, user] } } }],
  ["tool calls", { input: { case: "chat", value: { messages: [user, assistant, all] } } }],
  ["tools", { input: { case: "chat", value: { messages: [user], tools: [{ name: "t" }] } } }],
  ["tokens", { input: { case: "tokens", value: { ids: [1, 2_000_000] } } }],
  ["a limit beyond 31 bits", { input: { case: "prompt", value: "p" }, maxOutputTokens: 0xffff_ffff }],
  ["more fields", { model: "m", stop: ["a"], sampling: { seed: 5n }, labels: { a: "b" }, priority: 0, echo: true }],
];

/** What it reads, or nothing where it refuses. */
function attempt(read: () => unknown): unknown {
  try {
    return read();
  } catch {
    return undefined;
  }
}

function expectSame(encoded: Buffer): void {
  const read = attempt(() => fromBinary(GenerateRequestSchema, encoded));
  expect(attempt(() => readGenerateRequest(encoded))).toStrictEqual(read);
}

describe("a request", () => {
  test.each(requests)("is read with all of %s", (_, init) => {
    const encoded = toBinary(GenerateRequestSchema, create(GenerateRequestSchema, init));
    expect(readGenerateRequest(Buffer.from(encoded))).toStrictEqual(fromBinary(GenerateRequestSchema, encoded));
  });

  test.each([
    ["a chat in two parts", "12040a020801 12040a020802"],
    ["a chat behind a prompt behind a chat", "12040a020801 1a0170 12040a020802"],
    ["a field twice", "0a0161 0a0162 3801 3802 1a0170 1a0171"],
    ["a field of a newer contract", "1a0170 c03e01"],
    ["one of a message", "12060a04c03e0101"],
    ["a number of ten bytes", "38ffffffffffffffffff01"],
    ["a tag with a byte to spare", "8a000161"],
    ["a role that nobody knows", "12050a0308f001"],
    ["a negative role", "120d0a0b08ffffffffffffffffff01"],
  ])("is read as protobuf-es reads %s", (_, hex) => expectSame(Buffer.from(hex.replaceAll(" ", ""), "hex")));

  test.each([
    ["text that is no UTF-8", "0a02c328"],
    ["a field that is cut short", "0a0561"],
    ["a number in the place of a text", "0801"],
    ["a number that is cut short", "38ff"],
  ])("is refused for %s", (_, hex) => {
    expect(() => readGenerateRequest(Buffer.from(hex, "hex"))).toThrow("The request is no valid");
  });

  test("is what protobuf-es reads, or refused where it refuses, whatever its bytes", () => {
    const short = requests.filter(([what]) => what !== "a long prompt");
    const whole = fc
      .constantFrom(...short)
      .map(([, init]) => toBinary(GenerateRequestSchema, create(GenerateRequestSchema, init)));
    const wrong = fc.record({ at: fc.nat(), byte: fc.integer({ min: 0, max: 255 }) });
    fc.assert(
      fc.property(whole, fc.array(wrong, { maxLength: 3 }), fc.nat(6), (bytes, wrongs, cut) => {
        const encoded = Buffer.from(bytes.subarray(0, Math.max(0, bytes.length - cut)));
        for (const { at, byte } of wrongs) if (encoded.length > 0) encoded[at % encoded.length] = byte;
        expectSame(encoded);
      }),
      { numRuns: 5_000 },
    );
  });
});

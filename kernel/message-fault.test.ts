import { type MessageInitShape, create, fromBinary, fromJsonString, toBinary } from "@bufbuild/protobuf";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { GenerateRequestSchema, Role } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { binaryFault, jsonFault } from "#kernel/message-fault.ts";

const desc = GenerateRequestSchema;

/** The fault of bytes that do not decode; a decoder that takes them fails the test. */
function faultOf(decode: () => unknown, explain: (error: unknown) => Error): Error {
  try {
    decode();
  } catch (error) {
    return explain(error);
  }
  throw new Error("it decoded");
}

function json(text: string): Error {
  return faultOf(
    () => fromJsonString(desc, text),
    (error) => jsonFault(desc, Buffer.from(text), error),
  );
}

function binary(bytes: Uint8Array): Error {
  return faultOf(
    () => fromBinary(desc, bytes),
    (error) => binaryFault(desc, bytes, error),
  );
}

describe("in JSON", () => {
  test.each([
    ['{"model":5}', "model", "expected string, got 5"],
    ['{"sampling":{"temperature":"hot"}}', "sampling.temperature", 'expected number (float32), got "hot"'],
    ['{"sampling":{"temprature":1}}', "sampling.temprature", "Sampling has no such field; did you mean temperature?"],
    ['{"sampling":5}', "sampling", "must be a JSON object and is a number"],
    ["[]", "", "must be a JSON object and is an array"],
    ['{"chat":{"messages":[{},{"role":"ROLE_KING"}]}}', "chat.messages[1].role", '"ROLE_KING"'],
    ['{"chat":{"messages":[5]}}', "chat.messages[0]", "must be a JSON object and is a number"],
    ['{"chat":{"messages":{}}}', "chat.messages", "expected Array, got object"],
    ['{"choice_count":-1}', "choice_count", "out of range"],
    ['{"labels":{"a":1}}', "labels", 'map entry "a": expected string, got 1'],
    ['{"prompt":"a","chat":{}}', "", "oneof set multiple times"],
    ['{"model":"a","model":"b"}', "", 'duplicate object key "model"'],
  ])("%s is refused with its place", (text, field, problem) => {
    const fault = json(text);
    expect(fault).toMatchObject({ reason: Reason.INVALID_REQUEST, field });
    expect(fault.message).toContain(problem);
    expect(fault.message).toContain(`in JSON: ${field}`);
  });

  test("a syntax error has its position", () => {
    expect(json('{"model":\nx}').message).toContain('found character "x" at line 2 column 1');
  });

  test("a long value is not quoted whole", () => {
    expect(json(JSON.stringify({ choiceCount: "x".repeat(10_000) })).message.length).toBeLessThan(400);
  });
});

const encode = (request: MessageInitShape<typeof desc>) => toBinary(desc, create(desc, request));

describe("in binary", () => {
  const chat = encode({
    model: "m",
    input: { case: "chat", value: { messages: [{ role: Role.USER, content: "a" }, { content: "bcd" }] } },
  });
  const broken = Buffer.from(chat);
  broken[broken.indexOf("bcd")] = 0xff;

  test.each<[string, Uint8Array, string, string]>([
    ["a text cut short", Buffer.of(0x0a, 5, 0x61), "model", "says at byte 0 that it has 5 bytes, but 1 follow"],
    ["field 0", Buffer.of(0), "", "illegal tag: field no 0 wire type 0 at byte 0"],
    ["a number for a text", Buffer.of(0x08, 5), "model", "has the varint wire type at byte 0"],
    ["what is no UTF-8", broken, "chat.messages[1].content", "is no valid UTF-8 text"],
    ["a varint without end", Buffer.alloc(6, 0xff), "", "at byte 0"],
  ])("%s is refused with its place", (_, bytes, field, problem) => {
    const fault = binary(bytes);
    expect(fault).toMatchObject({ reason: Reason.INVALID_REQUEST, field });
    expect(fault.message).toContain(problem);
  });

  test("whatever the bytes are, the search ends", () => {
    fc.assert(
      fc.property(fc.nat(chat.length - 1), fc.nat(255), (at, byte) => {
        const bytes = Buffer.from(chat);
        bytes[at] = byte;
        expect(binaryFault(desc, bytes, new Error("it")).message).toMatch(/^The request is no valid/);
      }),
      { numRuns: 500, seed: 1 },
    );
  });
});

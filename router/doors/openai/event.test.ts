import { create, toBinary } from "@bufbuild/protobuf";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { FinishReason, GenerateResponseSchema } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { readEvent } from "./event.ts";
import type { ScriptedEvent } from "./scripted-calls.ts";

/** Somewhere in a larger buffer, as a link lends it. */
function read(event: ScriptedEvent) {
  const encoded = toBinary(GenerateResponseSchema, create(GenerateResponseSchema, { event }));
  const lent = Buffer.concat([Buffer.from([0x1a, 0x0a]), encoded, Buffer.from([0x1a, 0xff])]);
  return readEvent(lent, 2, 2 + encoded.length);
}

const uint32 = fc.nat({ max: 0xffff_ffff });

describe("an event", () => {
  test("that is Started says the model", () => {
    const value = fc.record({ callId: fc.string(), model: fc.string({ unit: "binary" }), nodeId: fc.string() });
    fc.assert(
      fc.property(value, uint32, uint32, (names, promptTokens, cachedTokens) => {
        const event = read({ case: "started", value: { ...names, promptTokens, cachedTokens } });
        expect(event).toEqual({ case: "started", value: { model: names.model } });
      }),
    );
  });

  test("that is Finished says the usage and whether it can be had again", () => {
    const usage = fc.option(fc.record({ promptTokens: uint32, cachedTokens: uint32, completionTokens: uint32 }), {
      nil: undefined,
    });
    fc.assert(
      fc.property(usage, fc.boolean(), (usage, unrepeatable) => {
        const finishReasons = [FinishReason.STOP, FinishReason.LENGTH];
        const event = read({ case: "finished", value: { finishReasons, unrepeatable, ...(usage && { usage }) } });
        expect(event).toMatchObject({ case: "finished", value: { unrepeatable, ...(usage && { usage }) } });
        expect(event.case === "finished" && event.value.usage === undefined).toBe(usage === undefined);
      }),
    );
  });

  test("that is a delta is decoded whole", () => {
    const value = { choiceIndex: 1, text: "a", logprobs: [{ token: "a", logprob: -0.5 }] };
    expect(read({ case: "delta", value })).toMatchObject({ case: "delta", value });
  });

  test("of a newer agent is none that is known", () => {
    expect(readEvent(Buffer.from([0x7a, 0x01, 0x00]), 0, 3)).toEqual({ case: undefined });
  });

  test("that is no protobuf is refused", () => {
    expect(() => readEvent(Buffer.from([0x0a, 0x05, 0x12]), 0, 3)).toThrow("no valid protobuf");
  });
});

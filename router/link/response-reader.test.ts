import { type MessageInitShape, create, toBinary } from "@bufbuild/protobuf";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { ConnectResponseSchema } from "#gen/helixmesh/link/v1/link_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { ResponseReader } from "./response-reader.ts";

function reading(known: readonly number[] = [1, 2]) {
  const heard: unknown[][] = [];
  const reader = new ResponseReader({
    onHello: (hello) => void heard.push(["hello", hello.nodeId]),
    onDrain: () => void heard.push(["drain"]),
    onStep: () => true,
    onReplica: (info) => void heard.push(["replica", info.replicaId]),
    onLoad: (replicaId, _bytes, start, end) => void heard.push(["load", replicaId, end > start]),
    onPrefixes: (digest) => void heard.push(["prefixes", digest.replicaId, digest.added]),
    onHeld: ({ callId, released }) => void heard.push(["held", callId, released]),
    call: (number) =>
      known.includes(number)
        ? {
            onResponse: (bytes, start, end) => void heard.push([number, bytes.toString("latin1", start, end)]),
            onTokens: (count, nowMs) => void heard.push([number, count, nowMs]),
          }
        : undefined,
    onCallEnd: (number, end) => void heard.push([number, "end", end.reason]),
    onStepEnd: (deltas) => void heard.push(["step", deltas]),
  });
  const read = (bytes: Uint8Array): void => {
    // Somewhere in a read buffer.
    const lent = Buffer.concat([Buffer.from("##"), bytes, Buffer.from("##")]);
    reader.read(lent, 2, lent.length - 2, 7);
  };
  return { heard, read };
}

function faultOf(read: () => void): unknown {
  try {
    read();
    return undefined;
  } catch (error) {
    return error;
  }
}

const encoded = (frame: MessageInitShape<typeof ConnectResponseSchema>["frame"] & object): Uint8Array =>
  toBinary(ConnectResponseSchema, create(ConnectResponseSchema, { frame }));
const text = (value: string): Uint8Array => Buffer.from(value);

describe("a response reader", () => {
  test("tells state before deltas, and of a delta responses, tokens and end", () => {
    const { heard, read } = reading();
    read(
      encoded({
        case: "step",
        value: {
          deltas: [
            {
              number: 1,
              responses: [text("a"), text("b")],
              completionTokens: 2,
              end: { reason: Reason.ENGINE_FAILED },
            },
            { number: 9, responses: [text("nobody's")] },
            { number: 2, responses: [text("")] },
          ],
          loads: [{ replicaId: "r", running: 1 }],
          replicas: [{ replicaId: "r" }],
          prefixes: [{ replicaId: "r", added: [7] }],
          heldCalls: [{ callId: "c", released: true }],
        },
      }),
    );
    expect(heard).toEqual([
      ["load", "r", true],
      ["replica", "r"],
      ["prefixes", "r", [7]],
      ["held", "c", true],
      [1, "a"],
      [1, "b"],
      [1, 2, 7],
      [1, "end", Reason.ENGINE_FAILED],
      [2, ""],
      ["step", 3],
    ]);
  });

  test("reads a delta in any order of its fields, with fields that it does not know", () => {
    const { heard, read } = reading();
    const delta = [0x20, 0x03, 0x12, 0x01, 0x61, 0x7d, 1, 2, 3, 4, 0x08, 0x02];
    const step = [0x0a, delta.length, ...delta];
    read(Uint8Array.from([0x12, step.length, ...step]));
    expect(heard).toEqual([
      [2, "a"],
      [2, 3, 7],
      ["step", 1],
    ]);
  });

  test("reads deltas of all sizes as protobuf does, and of what is cut off or garbled throws nothing but MeshErrors", () => {
    const number = fc.oneof(fc.nat(300), fc.nat(0xffff_ffff));
    const responses = fc.array(fc.string({ unit: "binary-ascii", maxLength: 200 }), { maxLength: 2 });
    const completionTokens = fc.oneof(fc.nat(2), fc.nat(300));
    const deltas = fc.array(fc.record({ number, responses, completionTokens }), { maxLength: 5 });
    fc.assert(
      fc.property(deltas, fc.nat(), fc.nat(255), (sent, place, garbage) => {
        const { heard, read } = reading(sent.map((one) => one.number));
        const bytes = encoded({
          case: "step",
          value: { deltas: sent.map((one) => ({ ...one, responses: one.responses.map(text) })) },
        });
        read(bytes);
        expect(heard).toEqual([
          ...sent.flatMap((one) => [
            ...one.responses.map((response) => [one.number, response]),
            ...(one.completionTokens > 0 ? [[one.number, one.completionTokens, 7]] : []),
          ]),
          ["step", sent.length],
        ]);
        const garbled = Uint8Array.from(bytes, (byte, at) => (at === place % bytes.length ? garbage : byte));
        for (const broken of [bytes.subarray(0, place % bytes.length), garbled]) {
          expect(faultOf(() => read(broken))).toSatisfy((fault) => fault === undefined || fault instanceof MeshError);
        }
      }),
    );
  });

  test("tells hello, drain and a heartbeat, and passes over frames of newer agents", () => {
    const { heard, read } = reading();
    read(encoded({ case: "hello", value: { nodeId: "node-1" } }));
    read(encoded({ case: "step", value: {} }));
    read(encoded({ case: "drain", value: {} }));
    read(Uint8Array.from([0x7a, 0x01, 0x00]));
    expect(heard).toEqual([["hello", "node-1"], ["step", 0], ["drain"]]);
  });

  test.each([
    ["a step cut short", [0x12, 0x05, 0x0a]],
    ["a hello of garbage", [0x0a, 0x02, 0x08, 0x80]],
    ["a delta cut short", [0x12, 0x04, 0x0a, 0x02, 0x12, 0x05]],
  ])("refuses %s", (_what, bytes) => {
    expect(() => reading().read(Uint8Array.from(bytes))).toThrow(MeshError);
  });
});

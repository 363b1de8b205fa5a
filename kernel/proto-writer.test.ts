import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { CallDeltaSchema, PrefixDigestSchema, StartCallSchema } from "#gen/helixmesh/link/v1/link_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { ProtoScanner } from "#kernel/proto-scanner.ts";
import { ProtoWriter, lengthDelimitedBytes, stringBytes, uintBytes } from "#kernel/proto-writer.ts";

const whole = fc.oneof(
  fc.nat(300),
  fc.maxSafeNat(),
  fc.constantFrom(0, 127, 128, 2 ** 31 - 1, 2 ** 31, 2 ** 32, 2 ** 53 - 1),
);

function written(write: (writer: ProtoWriter) => void): Uint8Array {
  const writer = new ProtoWriter();
  // What an earlier message left must not show.
  writer.raw(1, new Uint8Array(200).fill(0xff));
  writer.clear();
  write(writer);
  return Uint8Array.from(writer.bytes.subarray(0, writer.length));
}

describe("a message written by hand", () => {
  test("is what protobuf-es reads, and as long as was foretold", () => {
    fc.assert(
      fc.property(
        whole,
        fc.string({ unit: "grapheme" }),
        fc.uint8Array({ maxLength: 300 }),
        (timeoutMs, callId, request) => {
          const bytes = written((writer) => {
            writer.string(2, callId);
            writer.raw(5, request);
            writer.uint(6, timeoutMs);
          });
          expect(fromBinary(StartCallSchema, bytes)).toEqual(
            create(StartCallSchema, { callId, request, timeoutMs: BigInt(timeoutMs) }),
          );
          expect(bytes.length).toBe(stringBytes(callId) + lengthDelimitedBytes(request.length) + uintBytes(timeoutMs));
        },
      ),
    );
  });

  test("packs fixed32, and grows with what it is given", () => {
    const added = Array.from({ length: 50_000 }, (_, index) => (index * 2_654_435_761) >>> 0);
    const bytes = written((writer) => writer.fixed32s(4, Uint32Array.from(added)));
    expect(fromBinary(PrefixDigestSchema, bytes).added).toEqual(added);
  });
});

describe("a scanner", () => {
  test("finds every field where protobuf-es wrote it", () => {
    fc.assert(
      fc.property(
        fc.nat(),
        fc.array(fc.uint8Array({ maxLength: 200 })),
        fc.nat(),
        (number, responses, completionTokens) => {
          const bytes = toBinary(CallDeltaSchema, create(CallDeltaSchema, { number, responses, completionTokens }));
          const scanner = new ProtoScanner();
          const seen = { number: 0, responses: new Array<Uint8Array>(), completionTokens: 0 };
          scanner.reset(bytes, 0, bytes.length);
          while (scanner.next()) {
            if (scanner.field === 1) seen.number = scanner.value;
            else if (scanner.is(2)) seen.responses.push(bytes.slice(scanner.start, scanner.end));
            else seen.completionTokens = scanner.value;
          }
          expect(seen).toEqual({ number, responses, completionTokens });
        },
      ),
    );
  });

  test("throws a fault of ours or nothing, whatever the bytes, and never leaves them", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 60 }), fc.nat(10), (bytes, margin) => {
        const scanner = new ProtoScanner();
        const end = Math.max(0, bytes.length - margin);
        let fault: unknown;
        let furthest = 0;
        try {
          scanner.reset(bytes, 0, end);
          while (scanner.next()) furthest = Math.max(furthest, scanner.end);
        } catch (error) {
          fault = error;
        }
        expect(fault === undefined || fault instanceof MeshError).toBe(true);
        expect(furthest).toBeLessThanOrEqual(end);
      }),
      { numRuns: 2_000 },
    );
  });

  test.each([
    ["field 0", [0x00, 0x01]],
    ["a group", [0x0b]],
    ["an integer without end", [0x08, ...Array.from({ length: 10 }, () => 0x80), 0x00]],
    ["a length past the end", [0x0a, 0x05, 0x00]],
    ["half a fixed32", [0x0d, 0x00]],
  ])("refuses %s", (_what, bytes) => {
    const scanner = new ProtoScanner();
    scanner.reset(Uint8Array.from(bytes), 0, bytes.length);
    expect(() => scanner.next()).toThrow(MeshError);
  });
});

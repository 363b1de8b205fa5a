import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import fc from "fast-check";
import { expect, test } from "vitest";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { CallEndSchema } from "#gen/helixmesh/link/v1/link_pb.ts";
import { decodeCallEnd } from "./call-end.ts";

const uint32 = fc.nat(2 ** 31 - 1);
const usage = fc.record({ promptTokens: uint32, cachedTokens: uint32, completionTokens: uint32 });
const ends = fc.oneof(
  usage.map((usage) => ({ usage })),
  fc.record({ reason: fc.constantFrom(Reason.UNSPECIFIED, Reason.NODE_LOST), message: fc.string(), usage }),
  fc.constant({}),
);

test("an end reads as protobuf-es reads it, wherever it lies", () => {
  fc.assert(
    fc.property(ends, fc.nat(5), (end, offset) => {
      const encoded = toBinary(CallEndSchema, create(CallEndSchema, end));
      const bytes = new Uint8Array(encoded.length + 10).fill(0x7f);
      bytes.set(encoded, offset);
      expect({ ...decodeCallEnd(bytes, offset, offset + encoded.length) }).toEqual({
        ...fromBinary(CallEndSchema, encoded),
      });
    }),
  );
});

import { fromBinary } from "@bufbuild/protobuf";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { type CallEnd, CallEndSchema } from "#gen/helixmesh/link/v1/link_pb.ts";
import { ProtoScanner } from "#kernel/proto-scanner.ts";
import { decodeUsage } from "#kernel/usage-bytes.ts";

const usageField = CallEndSchema.field.usage.number;
const outer = new ProtoScanner();

/** Every call has one, and nearly all say nothing but the usage: those are not worth a decoder's reflection. */
export function decodeCallEnd(bytes: Uint8Array, start: number, end: number): CallEnd {
  outer.reset(bytes, start, end);
  if (!outer.next() || !outer.is(usageField) || outer.end !== end) {
    return fromBinary(CallEndSchema, bytes.subarray(start, end), { readUnknownFields: false });
  }
  return {
    $typeName: "helixmesh.link.v1.CallEnd",
    reason: Reason.UNSPECIFIED,
    message: "",
    field: "",
    limit: "",
    usage: decodeUsage(bytes, outer.start, outer.end),
  };
}

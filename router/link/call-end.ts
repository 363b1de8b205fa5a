import { fromBinary } from "@bufbuild/protobuf";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { type CallEnd, CallEndSchema } from "#gen/helixmesh/link/v1/link_pb.ts";
import { type Usage, UsageSchema } from "#gen/helixmesh/type/v1/type_pb.ts";
import { ProtoScanner } from "#kernel/proto-scanner.ts";

const usageField = CallEndSchema.field.usage.number;
const { promptTokens, cachedTokens, completionTokens } = UsageSchema.field;
const outer = new ProtoScanner();
const inner = new ProtoScanner();

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

function decodeUsage(bytes: Uint8Array, start: number, end: number): Usage {
  const usage: Usage = { $typeName: "helixmesh.type.v1.Usage", promptTokens: 0, cachedTokens: 0, completionTokens: 0 };
  inner.reset(bytes, start, end);
  while (inner.next()) {
    if (inner.field === promptTokens.number) usage.promptTokens = inner.value;
    else if (inner.field === cachedTokens.number) usage.cachedTokens = inner.value;
    else if (inner.field === completionTokens.number) usage.completionTokens = inner.value;
  }
  return usage;
}

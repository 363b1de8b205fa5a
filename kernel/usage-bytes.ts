import { type Usage, UsageSchema } from "#gen/helixmesh/type/v1/type_pb.ts";
import { ProtoScanner } from "#kernel/proto-scanner.ts";

const { promptTokens, cachedTokens, completionTokens } = UsageSchema.field;
const scanner = new ProtoScanner();

/**
 * Decodes the Usage that lies from `start` to `end`: every call brings two, which are not worth a decoder's reflection.
 * @throws MeshError INVALID_REQUEST for bytes that are no protobuf
 */
export function decodeUsage(bytes: Uint8Array, start: number, end: number): Usage {
  const usage: Usage = { $typeName: "helixmesh.type.v1.Usage", promptTokens: 0, cachedTokens: 0, completionTokens: 0 };
  scanner.reset(bytes, start, end);
  while (scanner.next()) {
    if (scanner.field === promptTokens.number) usage.promptTokens = scanner.value;
    else if (scanner.field === cachedTokens.number) usage.cachedTokens = scanner.value;
    else if (scanner.field === completionTokens.number) usage.completionTokens = scanner.value;
  }
  return usage;
}

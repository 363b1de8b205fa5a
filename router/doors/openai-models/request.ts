import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";

/**
 * The model id in a path below /v1/models/; ids may contain slashes, plain or percent-encoded.
 * @throws MeshError INVALID_REQUEST
 */
export function readModelId(encoded: string): string {
  try {
    return decodeURIComponent(encoded);
  } catch {
    // decodeURIComponent says no more than that it failed.
    throw new MeshError(Reason.INVALID_REQUEST, "The model id in the path is not valid percent-encoding.", {
      field: "model",
    });
  }
}

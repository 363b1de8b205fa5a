import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";

/** The end of a moved call whose beginning does not fit what this engine would have said: better no text than a wrong one. */
export function cannotContinue(why: string): MeshError {
  return new MeshError(
    Reason.CANNOT_CONTINUE,
    `The call was begun on another node, and its replica here cannot continue it: ${why}. Call again.`,
  );
}

import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { callIdOf, resumeHeader } from "../request-id.ts";

const resumeAfterHeader = "x-helixmesh-resume-after";

/** A stream that broke with its router, as its client wants to go on with it. */
interface Resume {
  /** Responses that the client has. */
  readonly after: number;
}

/**
 * Reads the metadata that InferenceService.Generate names, but for the call's id; undefined where the call is a new one.
 * @throws MeshError INVALID_REQUEST
 */
export function readResume(header: (name: string) => string | null | undefined): Resume | undefined {
  const callId = header(resumeHeader);
  if (callId === null || callId === undefined || callId === "") return undefined;
  if (callIdOf(callId) !== callId) {
    throw invalid(resumeHeader, "has to be the x-request-id of the broken stream, 1 to 128 printable ASCII characters");
  }
  const after = header(resumeAfterHeader) ?? "0";
  if (!/^[0-9]{1,9}$/.test(after))
    throw invalid(resumeAfterHeader, "has to be how many responses came, a whole number");
  return { after: Number(after) };
}

function invalid(field: string, what: string): MeshError {
  return new MeshError(Reason.INVALID_REQUEST, `${field} ${what}.`, { field });
}

import type { NodeServerRequest, NodeServerResponse } from "#kernel/node-handler.ts";
import { newId } from "#kernel/random.ts";

export const requestIdHeader = "x-request-id";
/** A call whose router died, to go on with: it keeps its id. */
export const resumeHeader = "x-helixmesh-resume";

/**
 * Gives every request its call id and every answer its header, errors of any layer included.
 */
export function nameRequest(request: NodeServerRequest, response: NodeServerResponse): void {
  const given = request.headers[resumeHeader] || request.headers[requestIdHeader];
  const callId = callIdOf(typeof given === "string" ? given : undefined);
  request.headers[requestIdHeader] = callId;
  response.setHeader(requestIdHeader, callId);
}

/** The caller's own id if it is 1 to 128 printable ASCII characters, else a new one. */
export function callIdOf(given: string | undefined): string {
  return given !== undefined && /^[\x21-\x7e]([\x20-\x7e]{0,126}[\x21-\x7e])?$/.test(given) ? given : newId("call");
}

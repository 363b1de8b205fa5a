import { Code, ConnectError } from "@connectrpc/connect";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { UsageError } from "./command.ts";
import type { Session } from "./session.ts";

/** What the operator reads, and the exit code. Never a stack: those are in the logs of the server. */
export function describeFailure(error: unknown, session: Session | undefined): { message: string; exitCode: 1 | 2 } {
  if (error instanceof UsageError) return { message: error.message, exitCode: 2 };
  if (error instanceof ConnectError) return { message: describeCall(error, session), exitCode: 1 };
  return { message: error instanceof Error ? error.message : String(error), exitCode: 1 };
}

function describeCall(error: ConnectError, session: Session | undefined): string {
  const address = session?.address;
  const where = address ? `The ${address.peer} at ${address.url}` : "The server";
  const fault = MeshError.from(error);
  const detailed = error.details.length > 0;
  if (!detailed && error.code === Code.Unavailable) {
    return `${where} does not answer (${error.rawMessage}). Is the mesh running? \`helixmesh up\` starts one.`;
  }
  if (!detailed && error.code === Code.DeadlineExceeded) return `${where} did not answer in time.`;
  const parts = [sentence(fault.message)];
  // The message may name them already; twice would be noise.
  if (fault.field !== "" && !fault.message.includes(fault.field)) parts.push(`Field: ${fault.field}.`);
  if (fault.limit !== "" && !fault.message.includes(fault.limit)) parts.push(`Limit: ${fault.limit}.`);
  if (fault.reason === Reason.INVALID_API_KEY && address) parts.push(`The key came from ${address.keyFile}.`);
  return parts.join(" ");
}

/** A fault of a field may be a clause; what follows it needs its full stop. */
function sentence(text: string): string {
  return /[.!?]$/.test(text) ? text : `${text}.`;
}

import { Code, ConnectError, type Interceptor } from "@connectrpc/connect";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import type { Logger } from "#kernel/log.ts";
import { MeshError } from "#kernel/mesh-error.ts";

/**
 * The outermost interceptor of a server: what a handler throws leaves as a ConnectError with our detail, and the cause
 * of an internal fault is logged, never sent.
 */
export function rpcErrors(logger: Logger): Interceptor {
  return (next) => async (request) => {
    const callId = request.header.get("x-request-id") ?? "";
    function translate(error: unknown): ConnectError {
      const isAnswer = error instanceof MeshError || (error instanceof ConnectError && error.details.length > 0);
      if (request.signal.aborted && !isAnswer) return aborted(request.signal.reason, callId);
      if (error instanceof ConnectError) return error;
      const fault = MeshError.from(error);
      if (fault.reason === Reason.INTERNAL) {
        const rpc = `${request.service.typeName}/${request.method.name}`;
        logger.error("rpc failed", { rpc, callId, error });
      }
      return fault.toConnectError(callId);
    }
    try {
      const response = await next(request);
      return response.stream ? { ...response, message: translated(response.message, translate) } : response;
    } catch (error) {
      throw translate(error);
    }
  };
}

/** Why a call was aborted: its deadline, our drain, or its client, which hears no answer. */
function aborted(reason: unknown, callId: string): ConnectError {
  if (reason instanceof MeshError) return reason.toConnectError(callId);
  const error = ConnectError.from(reason, Code.Canceled);
  if (error.code !== Code.DeadlineExceeded) return error;
  const message = "The call did not end before its deadline; give it more time or ask for less.";
  return new MeshError(Reason.DEADLINE_EXCEEDED, message).toConnectError(callId);
}

async function* translated<T>(messages: AsyncIterable<T>, translate: (error: unknown) => Error): AsyncGenerator<T> {
  try {
    yield* messages;
  } catch (error) {
    throw translate(error);
  }
}

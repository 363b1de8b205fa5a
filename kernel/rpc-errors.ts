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
    function translate(error: unknown): ConnectError {
      if (error instanceof ConnectError) return error;
      if (request.signal.aborted) return ConnectError.from(request.signal.reason, Code.Canceled);
      const fault = MeshError.from(error);
      const callId = request.header.get("x-request-id") ?? "";
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

async function* translated<T>(messages: AsyncIterable<T>, translate: (error: unknown) => Error): AsyncGenerator<T> {
  try {
    yield* messages;
  } catch (error) {
    throw translate(error);
  }
}

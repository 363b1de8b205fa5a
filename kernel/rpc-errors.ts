import { Code, ConnectError, type HandlerContext, type Interceptor } from "@connectrpc/connect";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import type { Logger } from "#kernel/log.ts";
import { MeshError } from "#kernel/mesh-error.ts";

/**
 * The outermost interceptor of a server: what a handler throws leaves as a ConnectError with our detail, and the cause
 * of an internal fault is logged, never sent.
 */
export function rpcErrors(logger: Logger): Interceptor {
  return (next) => async (request) => {
    const translate = translator(logger, `${request.service.typeName}/${request.method.name}`, request);
    try {
      const response = await next(request);
      return response.stream ? { ...response, message: translated(response.message, translate) } : response;
    } catch (error) {
      throw translate(error);
    }
  };
}

/** Decides by the headers who may call, before anything of a body is read. @throws MeshError to refuse */
export type Authorize = (context: HandlerContext) => void | Promise<void>;

/** The same for what `authorize` throws, which no interceptor sees. */
export function requestGate(authorize: Authorize, logger: Logger): (context: HandlerContext) => Promise<void> {
  return async (context) => {
    try {
      await authorize(context);
    } catch (error) {
      const { service, method, requestHeader: header, signal } = context;
      throw translator(logger, `${service.typeName}/${method.name}`, { header, signal })(error);
    }
  };
}

function translator(
  logger: Logger,
  rpc: string,
  { header, signal }: { readonly header: Headers; readonly signal: AbortSignal },
): (error: unknown) => ConnectError {
  const callId = header.get("x-request-id") ?? "";
  return (error) => {
    const isAnswer = error instanceof MeshError || (error instanceof ConnectError && error.details.length > 0);
    if (signal.aborted && !isAnswer) return aborted(signal.reason, callId);
    if (error instanceof ConnectError) return error;
    const fault = MeshError.from(error);
    if (fault.reason === Reason.INTERNAL) logger.error("rpc failed", { rpc, callId, error });
    return fault.toConnectError(callId);
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

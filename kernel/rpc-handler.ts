import { Code, ConnectError, type ConnectRouter, type Interceptor, createConnectRouter } from "@connectrpc/connect";
import { compressionBrotli, compressionGzip, universalRequestFromNodeRequest } from "@connectrpc/connect-node";
import type { Logger } from "#kernel/log.ts";
import { limitMessages } from "#kernel/message-limit.ts";
import { rpcErrors } from "#kernel/rpc-errors.ts";
import type { NodeHandler, NodeServerRequest, NodeServerResponse } from "#kernel/node-handler.ts";
import { percentEncode, sendResponse } from "#kernel/rpc-response.ts";

export type { NodeServerRequest, NodeServerResponse } from "#kernel/node-handler.ts";

export interface RpcHandlerOptions {
  readonly routes: (router: ConnectRouter) => void;
  /** Gets every path that is no RPC. */
  readonly fallback?: NodeHandler | undefined;
  /** Sees every request first and may set headers of either side; true means that it answered. */
  readonly before?: ((request: NodeServerRequest, response: NodeServerResponse) => boolean) | undefined;
  readonly interceptors?: readonly Interceptor[];
  /** Per message, after decompression too. */
  readonly maxBodyBytes: number;
  /** Aborts every call in flight. */
  readonly shutdownSignal: AbortSignal;
  readonly logger: Logger;
}

/**
 * Serves RPCs as gRPC, gRPC-Web and Connect to node:http and node:http2. Differs from connect-node's own adapter in
 * that a too large message names the limit and does not cut the connection, and in where failures are logged.
 */
export function rpcHandler(options: RpcHandlerOptions): NodeHandler {
  const { logger, maxBodyBytes } = options;
  const router = createConnectRouter({
    acceptCompression: [compressionGzip, compressionBrotli],
    readMaxBytes: maxBodyBytes,
    interceptors: [rpcErrors(logger), ...(options.interceptors ?? [])],
    shutdownSignal: options.shutdownSignal,
  });
  options.routes(router);
  const handlers = new Map(router.handlers.map((handler) => [handler.requestPath, handler]));

  async function serve(request: NodeServerRequest, response: NodeServerResponse): Promise<void> {
    if (options.before?.(request, response)) return;
    const path = request.url?.split("?", 1)[0] ?? "";
    const handler = handlers.get(path);
    const contentType = request.headers["content-type"] ?? "";
    if (!handler) {
      // A gRPC client understands only a gRPC status, whatever the fallback speaks.
      if (contentType.startsWith("application/grpc")) return refuseGrpc(response, path);
      return options.fallback ? options.fallback(request, response) : notFound(response, path);
    }
    const universal = universalRequestFromNodeRequest(request, response, undefined, undefined);
    // connect-es would refuse by this header too, in words of its own.
    universal.header.delete("content-length");
    const body = limitMessages(request.iterator({ destroyOnReturn: false }), {
      enveloped: /^application\/(grpc|connect\+)/.test(contentType),
      maxBytes: maxBodyBytes,
      lengthHint: Number(request.headers["content-length"] ?? 0),
    });
    const answer = await handler({ ...universal, body });
    await sendResponse(answer, response);
  }

  return (request, response) => {
    serve(request, response).catch((error: unknown) => {
      const { code } = ConnectError.from(error);
      // The peer went away; its own side knows.
      if (code === Code.Aborted || code === Code.Canceled) return;
      logger.error("request failed", { method: request.method, path: request.url?.split("?", 1)[0], error });
      if (response.headersSent) response.end();
      else send(response, 500, {}, "");
    });
  };
}

function refuseGrpc(response: NodeServerResponse, path: string): void {
  const headers = {
    "content-type": "application/grpc",
    "grpc-status": String(Code.Unimplemented),
    "grpc-message": percentEncode(`No method ${path.slice(0, 200)}; server reflection lists what there is.`),
  };
  send(response, 200, headers, "");
}

/** In the form of a Connect error, so that its clients show the message. */
function notFound(response: NodeServerResponse, path: string): void {
  const message = `No path ${path.slice(0, 200)} here; server reflection lists the RPC services.`;
  send(response, 404, { "content-type": "application/json" }, JSON.stringify({ code: "unimplemented", message }));
}

/** `writeHead` of the two kinds of response has no common signature. */
function send(response: NodeServerResponse, status: number, headers: Record<string, string>, body: string): void {
  response.statusCode = status;
  for (const [name, value] of Object.entries(headers)) response.setHeader(name, value);
  // Without a body the headers end the stream, which makes them a gRPC "Trailers-Only" answer.
  if (body === "") response.end();
  else response.end(body);
}

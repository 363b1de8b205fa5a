import type { DescMethod, Message } from "@bufbuild/protobuf";
import {
  Code,
  ConnectError,
  type ConnectRouter,
  type Interceptor,
  createConnectRouter,
  createContextValues,
} from "@connectrpc/connect";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import type { Logger } from "#kernel/log.ts";
import type { NodeHandler, NodeServerRequest, NodeServerResponse } from "#kernel/node-handler.ts";
import { dropRest, forgetRest } from "#kernel/request-rest.ts";
import { type Authorize, requestGate, rpcErrors } from "#kernel/rpc-errors.ts";
import { compressions, decodeRequest, decodedMessages, takeMessages } from "#kernel/rpc-request.ts";
import { cutResponse, percentEncode, sendResponse } from "#kernel/rpc-response.ts";
import { universalRequest } from "#kernel/universal-request.ts";

export interface RpcHandlerOptions {
  readonly routes: (router: ConnectRouter) => void;
  /** Gets every path that is no RPC. */
  readonly fallback?: NodeHandler | undefined;
  /** Sees every request first and may set headers of either side; true means that it answered. */
  readonly before?: ((request: NodeServerRequest, response: NodeServerResponse) => boolean) | undefined;
  readonly authorize?: Authorize | undefined;
  readonly interceptors?: readonly Interceptor[];
  /** Per message, after decompression too. */
  readonly maxBodyBytes: number;
  /** For a single request message to arrive, or less when the call's deadline is nearer. Default 60,000. */
  readonly bodyTimeoutMs?: number;
  /** For a peer to read what was sent to it. Default 60,000. */
  readonly stallTimeoutMs?: number;
  /** Aborts every call in flight. */
  readonly shutdownSignal: AbortSignal;
  /** Counts that a bound was reached. */
  readonly onBound: (bound: "message_bytes" | "request_time" | "stalled_client") => void;
  readonly logger: Logger;
}

/**
 * Serves RPCs as gRPC, gRPC-Web and Connect over HTTP/1.1 and HTTP/2. Differs from connect-node's own adapter in how
 * requests are decoded (`rpc-request.ts`), how answers are written (`rpc-response.ts`), and where failures are logged.
 */
export function rpcHandler(options: RpcHandlerOptions): NodeHandler {
  const { logger, maxBodyBytes, onBound, bodyTimeoutMs = 60_000, stallTimeoutMs = 60_000 } = options;
  const router = createConnectRouter({
    acceptCompression: [...compressions],
    interceptors: [rpcErrors(logger), takeMessages, ...(options.interceptors ?? [])],
    shutdownSignal: options.shutdownSignal,
    ...(options.authorize && { requestGate: requestGate(options.authorize, logger) }),
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
      if (contentType.startsWith("application/grpc")) return refuseGrpc(response, path, contentType);
      if (request.method === "POST" && rpcPath.test(path) && rpcType.test(contentType)) return noMethod(response, path);
      return options.fallback ? options.fallback(request, response) : notFound(response, path);
    }
    if (!handler.allowedMethods.includes(request.method ?? "")) {
      response.setHeader("allow", handler.allowedMethods.join(", "));
      return refuseForm(response, 405, `${request.method} is not how an RPC is called; use POST.`);
    }
    // Connect's GET has its message in the query, which the limit of all headers bounds.
    const isGet = request.method === "GET";
    if (!isGet && !handler.supportedContentType(contentType)) {
      return refuseForm(response, 415, wrongType(contentType, handler.method.methodKind));
    }
    const isSingle = handler.method.methodKind === "unary" || handler.method.methodKind === "server_streaming";
    const decoded: Message[] = [];
    const contextValues = createContextValues().set(cutResponse, () => void response.destroy());
    if (!isGet) contextValues.set(decodedMessages, decoded);
    const universal = universalRequest(request, response, contextValues);
    let fault: Reason | undefined;
    const body = decodeRequest({
      method: handler.method,
      headers: universal.header,
      body: universal.body,
      maxBytes: maxBodyBytes,
      decoded,
      timeoutMs: bodyTimeoutMs,
      callId: universal.header.get("x-request-id") ?? "",
      onFault(reason) {
        fault = reason;
        if (reason === Reason.REQUEST_TOO_LARGE) onBound("message_bytes");
        if (reason === Reason.DEADLINE_EXCEEDED) onBound("request_time");
      },
    });
    const answer = await handler(isGet ? universal : { ...universal, body });
    // Connect says 429; to a client that asks with `expect` before it sends, HTTP says 413 (RFC 9110, 10.1.1).
    const isRefusedUnsent = fault === Reason.REQUEST_TOO_LARGE && request.headers.expect !== undefined;
    const status = isRefusedUnsent && answer.status !== 200 ? 413 : answer.status;
    await sendResponse({ ...answer, status }, response, {
      stallTimeoutMs,
      onStall: () => onBound("stalled_client"),
      // A client that sends message after message hears at once that it may stop; one that is too slow has had its time.
      beforeHeaders: () => (isSingle && fault !== Reason.DEADLINE_EXCEEDED ? forgetRest(request) : undefined),
    });
    dropRest(request);
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

/** Paths and content types of Connect calls; gRPC's have a content type that nothing else has. */
const rpcPath = /^\/[\w.]+\.\w+\/\w+$/;
const rpcType = /^application\/(json|proto|connect\+\w+)\b/;

/** A client of gRPC-Web, or of another codec, takes only its own content type. */
function refuseGrpc(response: NodeServerResponse, path: string, contentType: string): void {
  const headers = {
    "content-type": /^application\/grpc(-web)?(\+\w+)?$/.exec(contentType)?.[0] ?? "application/grpc",
    "grpc-status": String(Code.Unimplemented),
    "grpc-message": percentEncode(`No method ${path.slice(0, 200)}; server reflection lists what there is.`),
  };
  send(response, 200, headers, "");
}

function noMethod(response: NodeServerResponse, path: string): void {
  refuse(response, 404, `No method ${path.slice(0, 200)}; server reflection lists what there is.`);
}

function notFound(response: NodeServerResponse, path: string): void {
  refuse(response, 404, `No path ${path.slice(0, 200)} here; server reflection lists the RPC services.`);
}

/** In the form of a Connect error, so that its clients show the message. */
function refuse(response: NodeServerResponse, status: number, message: string): void {
  const body = JSON.stringify({ code: "unimplemented", message });
  send(response, status, { "content-type": "application/json" }, body);
}

/** Connect has a media type for single messages, and another one for methods that stream. */
function wrongType(contentType: string, kind: DescMethod["methodKind"]): string {
  const type = JSON.stringify(contentType.slice(0, 100));
  const others = "application/grpc or application/grpc-web";
  if (kind === "unary") return `The content type ${type} is none of application/json, application/proto, ${others}.`;
  const forms = `application/connect+json, application/connect+proto, ${others}`;
  return `This method streams, and the content type ${type} is none of ${forms}.`;
}

/** For people: what is no call of any protocol gets an error of none, and its clients go by the status. */
function refuseForm(response: NodeServerResponse, status: number, message: string): void {
  send(response, status, { "content-type": "text/plain; charset=utf-8" }, `${message}\n`);
}

function send(response: NodeServerResponse, status: number, headers: Record<string, string>, body: string): void {
  response.statusCode = status;
  for (const [name, value] of Object.entries(headers)) response.setHeader(name, value);
  // Without a body the headers end the stream, which makes them a gRPC "Trailers-Only" answer.
  if (body === "") response.end();
  else response.end(body);
}

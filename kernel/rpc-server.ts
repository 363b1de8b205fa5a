import { once } from "node:events";
import { type IncomingMessage, type ServerResponse, createServer as createHttp1Server } from "node:http";
import { type AddressInfo, type Server, type Socket, createServer as createTcpServer } from "node:net";
import { type TLSSocket, createServer as createTlsServer } from "node:tls";
import type { DescService } from "@bufbuild/protobuf";
import type { ConnectRouter, Interceptor } from "@connectrpc/connect";
import { Health } from "#gen/grpc/health/v1/health_pb.ts";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { type Timer, systemClock } from "#kernel/clock.ts";
import type { HotMethod } from "#kernel/hot-method.ts";
import { HotConnections, type HotPath, refuseMalformed } from "#kernel/http1/index.ts";
import { http2Port } from "#kernel/http2-port.ts";
import type { Logger } from "#kernel/log.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import type { Metrics } from "#kernel/metrics.ts";
import type { NodeHandler, NodeServerRequest, NodeServerResponse } from "#kernel/node-handler.ts";
import { isTls, plainProtocol, sniffProtocol } from "#kernel/protocol-sniff.ts";
import type { Authorize } from "#kernel/rpc-errors.ts";
import { rpcHandler } from "#kernel/rpc-handler.ts";
import { addHealth } from "#kernel/rpc-health.ts";
import { addReflection } from "#kernel/rpc-reflection.ts";

export interface RpcServerOptions {
  readonly host: string;
  /** 0 asks the system for a free port. */
  readonly port: number;
  readonly tls?: { readonly cert: Buffer; readonly key: Buffer } | undefined;
  readonly routes: (router: ConnectRouter) => void;
  /** By path (`/package.Service/Method`): these take the streams of their gRPC calls themselves. */
  readonly hot?: ReadonlyMap<string, HotMethod> | undefined;
  /** Takes requests over HTTP/1.1 before anything else sees them, `before` included. */
  readonly hotPath?: HotPath | undefined;
  /** What reflection lists and health knows; health and reflection themselves are added. */
  readonly services: readonly DescService[];
  readonly health: () => boolean;
  /** Gets every path that is no RPC, over HTTP/1.1 and HTTP/2; a 404 in JSON without it. */
  readonly fallback?: NodeHandler | undefined;
  /** Sees every request first and may set headers of either side; true means that it answered. */
  readonly before?: ((request: NodeServerRequest, response: NodeServerResponse) => boolean) | undefined;
  /** Health and reflection are open to all. */
  readonly authorize?: Authorize | undefined;
  /** Outermost first. They see every call but health and reflection. */
  readonly interceptors?: readonly Interceptor[];
  /** Of one request message, decompressed. */
  readonly maxBodyBytes: number;
  readonly logger: Logger;
  readonly metrics: Metrics;
  /** Further connections are closed at once. Default 10,000. */
  readonly maxConnections?: number;
  /** Streams open at once on one HTTP/2 connection. Default 1,000. */
  readonly maxConcurrentStreams?: number;
  /** For the TLS handshake, and then for the bytes that tell the protocol. Default 10,000. */
  readonly sniffTimeoutMs?: number;
  /** For one request message to arrive. Default 60,000. */
  readonly bodyTimeoutMs?: number;
  /** For a peer to read what was sent to it, before its stream is reset. Default 60,000. */
  readonly stallTimeoutMs?: number;
  /** Hears when a drain cuts what is still open, so that calls of the fallback can end with this error too. */
  readonly onCut?: (error: MeshError) => void;
}

/** Of idle HTTP/1.1 connections: Node's own 5 s race with clients that reuse a connection at the same moment. */
const keepAliveMs = 75_000;
/**
 * In a drain, of HTTP/1.1 connections that are idle: a client that was told of no end (the head of its last answer went
 * out before) sends its next request at once, and closing right then would lose that.
 */
const drainIdleMs = 500;
/** After a drain has cut the calls: for their last words to leave, before the connections go. */
const cutGraceMs = 1_000;
/** For a client to read why it is refused. */
const refusalGraceMs = 1_000;

export interface RpcServer {
  readonly port: number;
  connections(): number;
  /** Accepts nothing new, tells clients to go (GOAWAY, `connection: close`), waits for open calls, then cuts. */
  drain(timeoutMs: number): Promise<void>;
  /** Cuts everything now. */
  close(): Promise<void>;
}

/** One port for gRPC, gRPC-Web, Connect and a fallback: the first bytes decide HTTP/2 or HTTP/1.1, with TLS its ALPN. */
export async function startRpcServer(options: RpcServerOptions): Promise<RpcServer> {
  const { host, logger, metrics, tls, maxConnections = 10_000, sniffTimeoutMs = 10_000 } = options;
  const open = metrics.gauge("rpc_connections", "Open connections of an RPC port.", ["port"]);
  const accepted = metrics.counter("rpc_connections_total", "Connections accepted.", ["protocol"]);
  const bounded = metrics.counter("rpc_bound_reached_total", "Times that a bound of an RPC port was reached.", [
    "bound",
  ]);
  const draining = new AbortController();
  const shutdown = new AbortController();
  /** Resolves when a drain has closed the last connection. */
  const emptied = Promise.withResolvers<void>();
  const sockets = new Set<Socket>();
  /** Connections whose first bytes have not come, and below TLS all that are accepted. */
  const undecided = new Set<Socket>();
  const http1Sockets = new Map<Socket, Set<ServerResponse>>();

  const handler = rpcHandler({
    ...options,
    fallback: options.fallback,
    shutdownSignal: shutdown.signal,
    onBound: (bound) => bounded.inc({ bound }),
    routes(router) {
      const services = [...options.services, Health];
      options.routes(router);
      addHealth(router, { services, health: options.health, drainSignal: draining.signal });
      addReflection(router, services, draining.signal);
    },
  });

  const http1 = createHttp1Server({ keepAliveTimeout: keepAliveMs }, onHttp1Request);
  function onHttp1Request(request: IncomingMessage, response: ServerResponse): void {
    const { socket } = request;
    const responses = http1Sockets.get(socket);
    responses?.add(response);
    if (draining.signal.aborted) response.shouldKeepAlive = false;
    response.once("close", () => {
      responses?.delete(response);
      if (draining.signal.aborted) closeIdleSoon(socket);
    });
    handler(request, response);
  }
  function closeIdleSoon(socket: Socket): void {
    const close = (): void => {
      if (http1Sockets.get(socket)?.size === 0) socket.destroySoon();
    };
    systemClock.setTimer(drainIdleMs, close, { unref: true });
  }
  http1.on("checkContinue", (request, response) => {
    // One that is too large is refused unsent; what may come after it then is no request, so the connection ends.
    if (Number(request.headers["content-length"] ?? 0) > options.maxBodyBytes) response.shouldKeepAlive = false;
    else response.writeContinue();
    onHttp1Request(request, response);
  });
  http1.on("clientError", (error, stream) => {
    const socket = stream as Socket;
    // Its end is on its way already; what still comes is dropped.
    if (socket.writableEnded) return;
    const responses = [...(http1Sockets.get(socket) ?? [])];
    if (socket.writable && !responses.some((response) => response.headersSent)) refuseMalformed(error, socket);
    else socket.destroy();
  });
  // It never listens itself; without this event Node does not enforce its header and request timeouts.
  http1.emit("listening");

  const http2 = http2Port({
    hot: options.hot ?? new Map(),
    handler,
    maxBodyBytes: options.maxBodyBytes,
    limits: {
      maxConcurrentStreams: options.maxConcurrentStreams ?? 1_000,
      stallTimeoutMs: options.stallTimeoutMs ?? 60_000,
    },
    onBound: (bound) => bounded.inc({ bound }),
    logger,
  });

  const hotConnections =
    options.hotPath && new HotConnections({ hot: options.hotPath, keepAliveMs, drainIdleMs, handOver: serveHttp1 });

  function serve(socket: Socket, protocol: "http1" | "http2"): void {
    accepted.inc({ protocol });
    if (protocol === "http2") {
      http2.serve(socket);
      return;
    }
    if (hotConnections) hotConnections.serve(socket);
    else serveHttp1(socket);
  }

  function serveHttp1(socket: Socket): void {
    http1Sockets.set(socket, new Set());
    http1.emit("connection", socket);
    process.nextTick(() => socket.resume());
  }

  function track(socket: Socket): void {
    sockets.add(socket);
    open.set({ port: String(port) }, sockets.size);
    socket.on("error", (error) => logger.debug("connection failed", { error }));
    socket.once("close", () => {
      sockets.delete(socket);
      http1Sockets.delete(socket);
      open.set({ port: String(port) }, sockets.size);
      if (draining.signal.aborted && sockets.size === 0) emptied.resolve();
    });
    if (draining.signal.aborted) socket.destroy();
  }

  function sniff<T>(socket: Socket, decide: (seen: Buffer) => T | undefined, onProtocol: (protocol: T) => void): void {
    undecided.add(socket);
    socket.once("close", () => undecided.delete(socket));
    sniffProtocol(socket, {
      timeoutMs: sniffTimeoutMs,
      decide,
      onProtocol,
      onTimeout() {
        bounded.inc({ bound: "sniff_timeout" });
        socket.destroy();
      },
    });
  }

  // TCP keep-alive finds peers that vanished without a word.
  const tcpOptions = { noDelay: true, keepAlive: true, keepAliveInitialDelay: 60_000 };
  const listener = createTcpServer(tcpOptions);
  const tlsServer = tls && createTlsLayer(tls);
  function createTlsLayer(files: { readonly cert: Buffer; readonly key: Buffer }): Server {
    const ALPNProtocols = ["h2", "http/1.1"];
    const server = createTlsServer({ ...tcpOptions, ...files, ALPNProtocols, handshakeTimeout: sniffTimeoutMs });
    server.on("tlsClientError", (error) => logger.debug("TLS handshake failed", { error }));
    server.on("secureConnection", (socket: TLSSocket) => {
      track(socket);
      // gRPC over TLS requires ALPN, so a client without it speaks HTTP/1.1.
      serve(socket, socket.alpnProtocol === "h2" ? "http2" : "http1");
    });
    return server;
  }
  listener.on("connection", (socket: Socket) => {
    if (tlsServer) {
      socket.on("error", (error) => logger.debug("connection failed", { error }));
      sniff(socket, isTls, (speaksTls) => {
        if (speaksTls) tlsServer.emit("connection", socket);
        else refusePlain(socket);
      });
      return;
    }
    track(socket);
    sniff(socket, plainProtocol, (protocol) => {
      undecided.delete(socket);
      serve(socket, protocol);
    });
  });
  listener.maxConnections = maxConnections;
  listener.on("drop", () => {
    bounded.inc({ bound: "max_connections" });
    logger.warn("connection refused: too many are open", { maxConnections });
  });
  listener.listen(options.port, host);
  await once(listener, "listening");
  const { port } = listener.address() as AddressInfo;

  async function finish(timeoutMs: number): Promise<void> {
    draining.abort();
    const listenerClosed = new Promise<void>((resolve) => listener.close(() => resolve()));
    if (sockets.size === 0) emptied.resolve();
    for (const [socket, responses] of http1Sockets) {
      for (const response of responses) response.shouldKeepAlive = false;
      closeIdleSoon(socket);
    }
    http2.drain();
    hotConnections?.drain();
    const drop = (): void => {
      for (const socket of undecided) socket.destroy();
    };
    if (!tls) systemClock.setTimer(drainIdleMs, drop, { unref: true });
    const cut = systemClock.setTimer(timeoutMs, () => {
      if (timeoutMs > 0) logger.warn("drain timed out; cutting connections", { connections: sockets.size, timeoutMs });
      const error = new MeshError(Reason.DRAINING, "This server is shutting down and cut the call; call again.");
      shutdown.abort(error);
      options.onCut?.(error);
      for (const socket of undecided) socket.destroy();
      grace = systemClock.setTimer(cutGraceMs, () => {
        for (const socket of [...sockets, ...undecided]) socket.destroy();
      });
    });
    let grace: Timer | undefined;
    await Promise.all([listenerClosed, emptied.promise]);
    cut.cancel();
    grace?.cancel();
    http1.close();
    shutdown.abort();
  }

  let finished: Promise<void> | undefined;
  return {
    port,
    connections: () => sockets.size,
    drain: (timeoutMs) => (finished ??= finish(timeoutMs)),
    async close() {
      finished ??= finish(0);
      for (const socket of [...sockets, ...undecided]) socket.destroy();
      await finished;
    },
  };
}

/** For a client that calls `http` where `https` is spoken. */
function refusePlain(socket: Socket): void {
  const text = "This port speaks TLS only; call it with https instead of http.\n";
  const head = `HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: ${text.length}\r\nconnection: close\r\n\r\n`;
  // What it goes on sending is read and dropped: a TCP reset would destroy the answer.
  socket.resume();
  socket.end(head + text);
  const cut = systemClock.setTimer(refusalGraceMs, () => socket.destroy());
  socket.once("close", () => cut.cancel());
}

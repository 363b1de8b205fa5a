import type { Socket } from "node:net";
import { systemClock } from "#kernel/clock.ts";
import type { HotMethod } from "#kernel/hot-method.ts";
import type { Logger } from "#kernel/log.ts";
import type { NodeHandler } from "#kernel/node-handler.ts";
import {
  type Bound,
  type HeaderList,
  type ServerConnection,
  type StreamListener,
  Wire,
  type WireLimits,
  type WireStream,
  serveConnection,
} from "#kernel/wire/index.ts";
import { wireExchange } from "#kernel/wire-exchange.ts";

export interface Http2PortOptions {
  /** By path; they get the gRPC form of their method, `handler` every other request. */
  readonly hot: ReadonlyMap<string, HotMethod>;
  readonly handler: NodeHandler;
  /** Of a request that asks with `expect` before it sends: above it there is no 100. */
  readonly maxBodyBytes: number;
  readonly limits: Partial<WireLimits>;
  /** The name of a bound of HTTP/2, as in metrics. */
  readonly onBound: (bound: string) => void;
  readonly logger: Logger;
}

export interface Http2Port {
  /** Takes a socket whose bytes, from the preface on, have not been read. */
  serve(socket: Socket): void;
  /** Tells all clients to open no more streams (GOAWAY); each connection ends with its last stream. */
  drain(): void;
}

/** The HTTP/2 connections of a port. */
export function http2Port(options: Http2PortOptions): Http2Port {
  const { hot, handler, logger } = options;
  const connections = new Set<ServerConnection>();
  const wire = new Wire({
    clock: systemClock,
    limits: options.limits,
    onBound: (bound) => options.onBound(metricName(bound)),
  });
  let draining = false;

  function onStream(stream: WireStream, headers: HeaderList): StreamListener {
    const method = headers.method === "POST" ? hot.get(headers.path ?? "") : undefined;
    if (method && isGrpc(headers.get("content-type"))) return method(stream, headers);
    const isUnsent = headers.get("expect")?.toLowerCase() === "100-continue";
    if (isUnsent && !((headers.contentLength ?? 0) > options.maxBodyBytes)) stream.sendHeaders([[":status", "100"]]);
    return wireExchange(stream, headers, handler);
  }

  return {
    serve(socket) {
      const connection = serveConnection(wire, socket, new Uint8Array(0), {
        onStream,
        onClose(end) {
          connections.delete(connection);
          logger.debug("http/2 connection ended", { code: end.code, reason: end.reason });
        },
      });
      connections.add(connection);
      if (draining) connection.drain();
    },
    drain() {
      draining = true;
      for (const connection of connections) connection.drain();
    },
  };
}

function isGrpc(contentType: string | undefined): boolean {
  return contentType === "application/grpc" || contentType === "application/grpc+proto";
}

/** As the other bounds of a port are named; a peer that does not read is one thing, whichever layer notices. */
export function metricName(bound: Bound): string {
  return bound === "stallTimeoutMs"
    ? "stalled_client"
    : bound.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

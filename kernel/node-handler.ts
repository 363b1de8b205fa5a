import type { IncomingHttpHeaders } from "node:http";
import type { Readable } from "node:stream";

/** A request with its body: that of node:http, or that of `wire-exchange` for HTTP/2. */
export interface NodeServerRequest extends Readable {
  readonly method?: string | undefined;
  /** Path and query. */
  readonly url?: string | undefined;
  /** Names in lower case; `host` is there for HTTP/2 too. */
  readonly headers: IncomingHttpHeaders;
  /** `1.0`, `1.1` or `2.0`. */
  readonly httpVersion: string;
  /** The whole body has arrived, read or not. */
  readonly complete: boolean;
}

/** What our handlers need of an answer: that of node:http, or that of `wire-exchange` for HTTP/2. */
export interface NodeServerResponse {
  statusCode: number;
  readonly headersSent: boolean;
  /** Nothing reaches the peer any more. */
  readonly closed: boolean;
  setHeader(name: string, value: string): unknown;
  writeHead(status: number, headers: Record<string, string>): unknown;
  flushHeaders(): void;
  /** False: the peer does not keep up, and `drain` tells when it does. */
  write(chunk: Uint8Array | string): boolean;
  /** Sent at the end. */
  addTrailers(trailers: Record<string, string>): void;
  end(): unknown;
  end(chunk: string): unknown;
  /** For a client that does not read: what was not sent never is. Over HTTP/2 only the stream goes. */
  destroy(): unknown;
  on(event: "close" | "drain", listener: () => void): unknown;
  once(event: "close" | "drain", listener: () => void): unknown;
  off(event: "close" | "drain", listener: () => void): unknown;
}

/** Answers one request, HTTP/1.1 or HTTP/2. */
export type NodeHandler = (request: NodeServerRequest, response: NodeServerResponse) => void;

import { EventEmitter } from "node:events";
import { type IncomingHttpHeaders, validateHeaderName, validateHeaderValue } from "node:http";
import { Readable } from "node:stream";
import { Code, ConnectError } from "@connectrpc/connect";
import { systemClock } from "#kernel/clock.ts";
import type { NodeHandler, NodeServerRequest, NodeServerResponse } from "#kernel/node-handler.ts";
import {
  ErrorCode,
  type HeaderFields,
  type HeaderList,
  type StreamListener,
  type WireStream,
} from "#kernel/wire/index.ts";

/** Hands an HTTP/2 stream to a handler that is written for node:http. */
export function wireExchange(stream: WireStream, headers: HeaderList, handler: NodeHandler): StreamListener {
  const request = new WireRequest(stream, headers);
  const response = new WireResponse(stream, headers.method === "HEAD");
  // Later: a handler that answers at once must not close a stream whose listener is not known yet.
  process.nextTick(handler, request, response);
  return {
    onData: (bytes, start, end) => request.receive(bytes, start, end),
    onEnd: () => request.finish(),
    onDrain: () => void response.emit("drain"),
    onClose() {
      request.lose();
      response.leave();
    },
  };
}

class WireRequest extends Readable implements NodeServerRequest {
  readonly method: string;
  readonly url: string;
  readonly headers: IncomingHttpHeaders;
  readonly httpVersion = "2.0";
  complete = false;
  readonly #stream: WireStream;
  /** Bytes that came since the reader fell behind; the client's window stays closed by as much. */
  #unread = 0;

  constructor(stream: WireStream, headers: HeaderList) {
    super();
    this.#stream = stream;
    this.method = headers.method ?? "";
    this.url = headers.path ?? "*";
    this.headers = headersOf(headers);
    // Only readers that wait for more need to know; `lose` says why.
    this.on("error", () => {});
  }

  override _read(): void {
    const unread = this.#unread;
    this.#unread = 0;
    if (unread > 0) this.#stream.consumed(unread);
  }

  receive(bytes: Buffer, start: number, end: number): void {
    const wanted = this.destroyed || this.push(Buffer.from(bytes.subarray(start, end)));
    if (wanted) this.#stream.consumed(end - start);
    else this.#unread += end - start;
  }

  finish(): void {
    this.complete = true;
    this.push(null);
  }

  /** The stream is gone. What arrived whole may still be read. */
  lose(): void {
    if (!this.complete) this.destroy(new ConnectError("The client went away.", Code.Canceled));
  }
}

class WireResponse extends EventEmitter implements NodeServerResponse {
  statusCode = 200;
  headersSent = false;
  closed = false;
  readonly #stream: WireStream;
  /** RFC 9110, 9.3.2: the answer to HEAD has no body. */
  readonly #isHead: boolean;
  readonly #headers = new Map<string, string>();
  #trailers: HeaderFields | undefined;

  constructor(stream: WireStream, isHead: boolean) {
    super();
    this.#stream = stream;
    this.#isHead = isHead;
  }

  setHeader(name: string, value: string): void {
    const lower = name.toLowerCase();
    if (!connectionFields.has(lower)) this.#headers.set(lower, fieldValue(lower, value));
  }

  writeHead(status: number, headers: Record<string, string>): void {
    this.statusCode = status;
    for (const [name, value] of Object.entries(headers)) this.setHeader(name, value);
    this.flushHeaders();
  }

  flushHeaders(): void {
    this.#sendHeaders(this.#isHead);
  }

  write(chunk: Uint8Array | string): boolean {
    this.flushHeaders();
    return this.#isHead || this.#stream.write(typeof chunk === "string" ? Buffer.from(chunk) : chunk);
  }

  addTrailers(trailers: Record<string, string>): void {
    this.#trailers = Object.entries(trailers).map(([name, value]) => {
      const lower = name.toLowerCase();
      return [lower, fieldValue(lower, value)] as const;
    });
  }

  end(chunk = ""): void {
    if (chunk !== "") this.write(chunk);
    // Without a body the headers end the stream, which makes them a gRPC "Trailers-Only" answer.
    if (!this.headersSent && this.#trailers === undefined) return this.#sendHeaders(true);
    this.flushHeaders();
    this.#stream.end(this.#trailers);
  }

  destroy(): void {
    // gRPC clients show it as RESOURCE_EXHAUSTED (https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md#errors).
    this.#stream.reset(ErrorCode.ENHANCE_YOUR_CALM);
  }

  leave(): void {
    this.closed = true;
    // As node:http does, never within a call of the handler's own.
    process.nextTick(() => this.emit("close"));
  }

  #sendHeaders(end: boolean): void {
    if (this.headersSent) return;
    this.headersSent = true;
    // RFC 9110, 6.6.1.
    const date = this.#headers.get("date") ?? new Date(systemClock.nowMs()).toUTCString();
    this.#stream.sendHeaders([[":status", String(this.statusCode)], ...this.#headers, ["date", date]], end);
  }
}

/** Fields of one HTTP/1.1 connection (RFC 9113, 8.2.2): handlers set them without knowing the protocol. */
const connectionFields = new Set(["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"]);

/** Throws at its setter what would throw when it is sent. */
function fieldValue(name: string, value: string): string {
  validateHeaderName(name);
  validateHeaderValue(name, value);
  return value.trim();
}

/** As node:http gives them: repeated fields joined. */
function headersOf({ fields, authority }: HeaderList): IncomingHttpHeaders {
  const headers = Object.create(null) as IncomingHttpHeaders;
  for (let at = 0; at < fields.length; at += 2) {
    const name = fields[at] ?? "";
    const value = fields[at + 1] ?? "";
    if (name === "set-cookie") continue; // A response's.
    const earlier = headers[name];
    headers[name] = earlier === undefined ? value : `${earlier.toString()}${name === "cookie" ? "; " : ", "}${value}`;
  }
  if (authority !== undefined) headers.host ??= authority;
  return headers;
}

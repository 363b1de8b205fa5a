import type { Socket } from "node:net";
import { systemClock } from "#kernel/clock.ts";
import type { DirectWrite } from "#kernel/direct-write.ts";

export interface HotResponseParts {
  readonly socket: Socket;
  readonly direct: DirectWrite | undefined;
  /** What the client may count on for its next request, seconds. */
  readonly keepAliveS: number;
  /** The connection can serve another request. */
  readonly keepAlive: () => boolean;
  /** All of the answer is with the socket. */
  readonly onEnd: () => void;
}

/** Control characters would split the head (RFC 9110, 5.5). */
const unsendable = /[^\t\x20-\x7e\x80-\xff]/;

const reasons: Readonly<Record<number, string>> = {
  200: "OK",
  400: "Bad Request",
  401: "Unauthorized",
  403: "Forbidden",
  404: "Not Found",
  408: "Request Timeout",
  409: "Conflict",
  413: "Content Too Large",
  415: "Unsupported Media Type",
  422: "Unprocessable Content",
  429: "Too Many Requests",
  499: "Client Closed Request",
  500: "Internal Server Error",
  501: "Not Implemented",
  502: "Bad Gateway",
  503: "Service Unavailable",
  504: "Gateway Timeout",
};

/**
 * The answer to one request over HTTP/1.1. The head waits for the first bytes behind it, so that an answer of one piece
 * is one write. What is sent after the end, or after the client went away, goes nowhere.
 */
export class HotResponse {
  headersSent = false;
  /**
   * As of node:http: true once a head without a length is written. But it never frames: the writer sends the chunks, the
   * last one included (RFC 9112, 7.1), and may set it to false to say so.
   */
  chunkedEncoding = false;
  readonly #parts: HotResponseParts;
  readonly #onClose: (() => void)[] = [];
  readonly #onDrain: (() => void)[] = [];
  readonly #onSent = (status: number): void => this.#sent(status);
  #head = "";
  /** A direct write is under way. */
  #waiting = false;
  #over = false;

  constructor(parts: HotResponseParts) {
    this.#parts = parts;
  }

  /** `close`: the client is gone before the answer's end. `drain`: after a `write` that returned false. */
  on(event: "close" | "drain", listener: () => void): void {
    (event === "close" ? this.#onClose : this.#onDrain).push(listener);
  }

  writeHead(status: number, headers: Readonly<Record<string, string>>): void {
    if (this.headersSent) throw new Error("the head is sent already");
    let head = `HTTP/1.1 ${status} ${reasons[status] ?? "Unknown"}\r\n`;
    let hasLength = false;
    for (const name in headers) {
      const value = headers[name] as string;
      if (unsendable.test(value)) throw new TypeError(`the value of ${name} cannot be sent in a header`);
      hasLength ||= name === "content-length";
      head += `${name}: ${value}\r\n`;
    }
    this.chunkedEncoding = !hasLength;
    if (!hasLength) head += "transfer-encoding: chunked\r\n";
    const { keepAlive, keepAliveS } = this.#parts;
    const connection = keepAlive() ? `keep-alive\r\nkeep-alive: timeout=${keepAliveS}` : "close";
    this.#head = `${head}date: ${httpDate()}\r\nconnection: ${connection}\r\n\r\n`;
    this.headersSent = true;
  }

  /** False: the socket holds more than it should. */
  write(text: string): boolean {
    if (this.#over) return true;
    const out = this.#head === "" ? text : this.#head + text;
    this.#head = "";
    return this.#send(out);
  }

  end(text = ""): void {
    if (this.#over) return;
    this.#over = true;
    const out = this.#head + text;
    if (out !== "") this.#send(out);
    this.#parts.onEnd();
  }

  /** For a client that does not read. */
  destroy(): void {
    this.#parts.socket.destroy();
  }

  /** For the connection: the client is gone. */
  closed(): void {
    if (this.#over) return;
    this.#over = true;
    for (const listener of this.#onClose) listener();
  }

  /** For the connection: the socket's own queue is empty. */
  drained(): void {
    if (this.#waiting) return;
    for (const listener of this.#onDrain) listener();
  }

  #send(text: string): boolean {
    const { socket, direct } = this.#parts;
    // Latin1 costs less to write, and for ASCII it is the same.
    const ascii = Buffer.byteLength(text) === text.length;
    if (direct !== undefined && !this.#waiting && socket.writableLength === 0) {
      const result = direct.writeText(text, ascii, this.#onSent);
      this.#waiting = result === "waiting";
      // Where it failed the stream will fail alike, and knows how to say so.
      if (result !== "failed") return result === "sent";
    }
    return socket.write(text, ascii ? "latin1" : "utf8") && !this.#waiting;
  }

  #sent(status: number): void {
    const { socket } = this.#parts;
    this.#waiting = false;
    if (status < 0) socket.destroy();
    else if (!socket.writableNeedDrain) this.drained();
  }
}

let dateSecond = -1;
let dateText = "";

/** RFC 9110, 6.6.1; formatted once a second. */
function httpDate(): string {
  const nowMs = systemClock.nowMs();
  const second = Math.floor(nowMs / 1_000);
  if (second !== dateSecond) {
    dateSecond = second;
    dateText = new Date(nowMs).toUTCString();
  }
  return dateText;
}

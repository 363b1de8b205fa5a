import type { Clock } from "#kernel/clock.ts";
import type { MeshError } from "#kernel/mesh-error.ts";
import type { Door } from "../../call/calls.ts";
import { errorBody, errorHeaders, errorStatus } from "./errors.ts";
import { EventStream } from "./event-stream.ts";
import type { HttpResponse } from "./exchange.ts";

export interface ReplyOptions {
  readonly callId: string;
  /** Of every answer, besides the request id. */
  readonly headers: Readonly<Record<string, string>>;
  readonly clock: Clock;
  readonly stallTimeoutMs: number;
  readonly onStall: () => void;
}

/** The one answer to one request. What is sent after the client went away or after the end goes nowhere. */
export class Reply {
  readonly #response: HttpResponse;
  readonly #options: ReplyOptions;
  /** Set once a request is routed; error bodies name parameters as that endpoint does. */
  door: Door | undefined;
  /** Hears that the client went away; harmless after the answer's end. */
  onGone: (() => void) | undefined;
  /** Of every answer. */
  readonly #headers: Record<string, string>;
  #gone = false;

  constructor(response: HttpResponse, options: ReplyOptions) {
    this.#response = response;
    this.#options = options;
    this.#headers = { "x-request-id": options.callId, ...options.headers };
    response.on("close", () => {
      this.#gone = true;
      this.onGone?.();
    });
  }

  get callId(): string {
    return this.#options.callId;
  }

  /** Already, so that `onGone` would come too late. */
  get gone(): boolean {
    return this.#gone;
  }

  /** For whatever is answered; before anything is. */
  header(name: string, value: string): void {
    this.#headers[name] = value;
  }

  /** `body` is JSON text. */
  json(status: number, body: string, headers: Record<string, string> = {}): void {
    if (this.#writeHead(status, body, headers)) this.#response.end(body);
  }

  /** The answer is sent whole at once, but ends only after `rest`: see discardRest. */
  error(fault: MeshError, rest: Promise<void> | undefined): void {
    const body = errorBody(fault, this.door);
    if (!this.#writeHead(errorStatus(fault), body, errorHeaders(fault))) return;
    if (!rest) {
      this.#response.end(body);
      return;
    }
    this.#response.write(body);
    void rest.then(() => this.#response.end());
  }

  #writeHead(status: number, body: string, headers: Record<string, string>): boolean {
    if (this.#gone || this.#response.headersSent) return false;
    this.#response.writeHead(status, {
      "content-type": "application/json",
      "content-length": String(Buffer.byteLength(body)),
      ...this.#headers,
      ...headers,
    });
    return true;
  }

  /** Sends status 200: from here on an error can only be an event. `onRoom`: the client caught up. */
  eventStream(onRoom: () => void): EventStream {
    const { clock, stallTimeoutMs, onStall } = this.#options;
    return new EventStream(this.#response, { headers: this.#headers, clock, stallTimeoutMs, onStall, onRoom });
  }
}

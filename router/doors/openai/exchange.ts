import type { Clock } from "#kernel/clock.ts";
import type { Logger } from "#kernel/log.ts";
import type { Metrics } from "#kernel/metrics.ts";
import type { NodeServerRequest } from "#kernel/node-handler.ts";
import type { Principal } from "../../admission/authenticate.ts";
import type { CallContext, Calls, Door } from "../../call/calls.ts";
import type { LastEvent } from "./event-id.ts";
import type { Reply } from "./reply.ts";

export interface OpenAiDeps {
  readonly calls: Calls;
  /** Takes the `authorization` header. @throws MeshError INVALID_API_KEY, PERMISSION_DENIED */
  readonly authenticate: (authorization: string | undefined) => Principal;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly metrics: Metrics;
  readonly newCallId: () => string;
  /** Of one request; a larger one gets 413 and is never held. */
  readonly maxBodyBytes: number;
  /** How long a body may take to arrive. Default 60,000. */
  readonly bodyTimeoutMs?: number;
  /** How long a client may leave a stream unread before its call is ended. Default 60,000. */
  readonly stallTimeoutMs?: number;
}

export type HttpRequest = NodeServerRequest;

/** What the doors need of a response; every `NodeServerResponse` has it. */
export interface HttpResponse {
  readonly headersSent: boolean;
  /** Of node:http, known once the head is written: whether it frames what is written. Setting it to false stops that. */
  chunkedEncoding?: boolean;
  writeHead(status: number, headers: Record<string, string>): unknown;
  write(chunk: string): boolean;
  end(): unknown;
  end(chunk: string): unknown;
  destroy(): unknown;
  on(event: "close" | "drain", listener: () => void): unknown;
}

/** One authenticated request with its parsed body, on its way through an endpoint. */
export interface Exchange {
  readonly body: unknown;
  readonly context: CallContext;
  readonly deps: OpenAiDeps;
  /** The client goes on behind it with a stream that broke. */
  readonly lastEvent: LastEvent | undefined;
  /** The caller wants to hear what its call waits for. */
  readonly progress: boolean;
  /** Its `onGone` is the endpoint's. */
  readonly reply: Reply;
  /** Answers with a failure from before anything was sent. */
  readonly fail: (thrown: unknown) => void;
}

/** One `POST` route. What `answer` throws becomes the answer. */
export interface Endpoint {
  readonly door: Door;
  answer(exchange: Exchange): void;
}

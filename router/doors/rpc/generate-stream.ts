import { Code, ConnectError } from "@connectrpc/connect";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import type { Waiting } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { grpcTimeoutMs } from "#kernel/call-timeout.ts";
import type { Clock, Timer } from "#kernel/clock.ts";
import {
  GrpcMessageReader,
  grpcOkTrailers,
  grpcRefusal,
  grpcResponseFields,
  grpcTrailers,
  isWholeMessage,
} from "#kernel/grpc-messages.ts";
import type { HotMethod } from "#kernel/hot-method.ts";
import type { Logger } from "#kernel/log.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import type { Metrics } from "#kernel/metrics.ts";
import { RequestRest } from "#kernel/request-rest.ts";
import {
  ErrorCode,
  type HeaderList,
  type StreamEnd,
  type StreamListener,
  type WireStream,
  atTurnEnd,
  messageHeaderBytes,
} from "#kernel/wire/index.ts";
import type { Principal } from "../../admission/authenticate.ts";
import type { Calls } from "../../call/calls.ts";
import { readGenerateRequest } from "../../call/generate-request.ts";
import type { ResponseSink, RunningCall } from "../../call/sink.ts";
import type { MessageWriter } from "../../link/link-call.ts";
import { type Explanation, explanationText } from "../../routing/explain.ts";
import { type RoutingHints, explainHeader, routingHints } from "../../routing/hints.ts";
import { wantsProgress } from "../progress.ts";
import { callIdOf, requestIdHeader, resumeHeader } from "../request-id.ts";
import { readResume } from "./resume.ts";
import { waitingBytes } from "./waiting-bytes.ts";

export interface GenerateMethodOptions {
  readonly calls: Calls;
  /** Takes the `authorization` header. @throws MeshError INVALID_API_KEY, PERMISSION_DENIED */
  readonly authenticate: (authorization: string | undefined) => Principal;
  /** Of the request message, decompressed. */
  readonly maxBodyBytes: number;
  /** For the request to arrive. Default 60,000. */
  readonly bodyTimeoutMs?: number;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly metrics: Metrics;
}

/** InferenceService/Generate over gRPC, the hot path: the agent's bytes go from the link's buffer into the client's. */
export function generateMethod(options: GenerateMethodOptions): HotMethod {
  const bounded = options.metrics.counter("rpc_bound_reached_total", "Times that a bound of an RPC port was reached.", [
    "bound",
  ]);
  const parts = { ...options, onBound: (bound: string) => bounded.inc({ bound }) };
  let opened: GenerateStream[] = [];
  function watchBodies(): void {
    const streams = opened;
    opened = [];
    for (const stream of streams) stream.watchBody();
  }
  return (stream, headers) => {
    const opening = new GenerateStream(stream, headers, parts);
    if (opened.push(opening) === 1) atTurnEnd(watchBodies);
    return opening;
  };
}

type Parts = GenerateMethodOptions & { readonly onBound: (bound: string) => void };

const defaultBodyTimeoutMs = 60_000;

/** One call: its request until that is whole, then its answer. */
class GenerateStream implements StreamListener, ResponseSink {
  readonly #stream: WireStream;
  /** Responses that the client has: this is the rest of a call whose router died. */
  #had = 0;
  #opened = false;
  readonly wait: ((waiting: Waiting) => boolean) | undefined;
  readonly #parts: Parts;
  readonly #callId: string;
  #resumes = false;
  readonly #traceparent: string | undefined;
  readonly #routing: RoutingHints;
  #explanation: Explanation | undefined;
  readonly #encoding: string | undefined;
  /** Of a call with a deadline. */
  #startMs = 0;
  /** For a request that does not come in one piece, until it is whole. */
  #reader: GrpcMessageReader | undefined;
  #isWhole = false;
  #principal: Principal | undefined;
  #timeoutMs = Number.POSITIVE_INFINITY;
  #bodyTimer: Timer | undefined;
  #message: Buffer | undefined;
  #call: RunningCall | undefined;
  /** While the rest of a request that is refused is read and forgotten. */
  #rest: RequestRest | undefined;
  /** Answered, or gone: what still comes of the request is of no use. */
  #over = false;

  constructor(stream: WireStream, headers: HeaderList, parts: Parts) {
    this.#stream = stream;
    this.#parts = parts;
    this.#callId = callIdOf(headers.get(resumeHeader) || headers.get(requestIdHeader));
    this.#traceparent = headers.get("traceparent");
    const header = (name: string): string | undefined => headers.get(name);
    this.#routing = routingHints(header, (explanation) => void (this.#explanation = explanation));
    this.wait = wantsProgress(header) ? (waiting) => this.#tell(waiting) : undefined;
    this.#encoding = headers.get("grpc-encoding");
    try {
      this.#principal = parts.authenticate(headers.get("authorization"));
      const resume = readResume(header);
      if (resume) {
        this.#had = resume.after;
        this.#resumes = true;
      }
      this.#timeoutMs = grpcTimeoutMs(headers.get("grpc-timeout"));
      if (this.#timeoutMs !== Number.POSITIVE_INFINITY) this.#startMs = parts.clock.monotonicMs();
    } catch (error) {
      this.#refuse(error);
    }
  }

  /**
   * At the end of the turn that opened it. Nearly every request is whole by then, and a timer would cost more than its
   * reading.
   */
  watchBody(): void {
    if (this.#over || this.#isWhole) return;
    const { clock, bodyTimeoutMs = defaultBodyTimeoutMs } = this.#parts;
    const limitMs = Math.min(bodyTimeoutMs, this.#timeoutMs);
    this.#bodyTimer = clock.setTimer(limitMs, () => this.#refuse(tooSlow(limitMs)));
  }

  onData(bytes: Buffer, start: number, end: number): void {
    // The reader holds no more than one message, whose size is bounded.
    this.#stream.consumed(end - start);
    this.#rest?.heard(end - start);
    if (this.#over) return;
    try {
      this.#read(bytes, start, end);
    } catch (error) {
      this.#refuse(error);
    }
  }

  onEnd(): void {
    this.#rest?.over();
    if (this.#over) return;
    try {
      this.#reader?.finish();
      this.#reader = undefined;
      this.#isWhole = true;
      this.#begin();
    } catch (error) {
      this.#refuse(error);
    }
  }

  onDrain(): void {
    this.#call?.resume();
  }

  onClose(end: StreamEnd): void {
    this.#over = true;
    this.#bodyTimer?.cancel();
    this.#rest?.stop();
    if (end.kind !== "complete") this.#call?.abort();
  }

  writeMessage(bytes: Uint8Array, start: number, end: number): boolean {
    if (this.#had > 0) {
      this.#had -= 1;
      return true;
    }
    this.#open();
    return this.#stream.writeMessage(bytes, start, end);
  }

  /** The first response has opened the stream. */
  get direct(): MessageWriter | undefined {
    return this.#opened && this.#had === 0 ? this.#stream : undefined;
  }

  finish(): void {
    this.#open();
    this.#stream.end(grpcOkTrailers);
  }

  fail(error: MeshError | ConnectError): void {
    this.#over = true;
    if (this.#opened) return this.#stream.end(grpcTrailers(error, this.#callId));
    this.#stream.sendHeaders([...grpcRefusal(error, this.#callId), [requestIdHeader, this.#callId]], true);
  }

  /** No trailer would reach the client. */
  cut(): void {
    this.#stream.reset(ErrorCode.ENHANCE_YOUR_CALM);
  }

  /** Started has left. */
  restart(): boolean {
    return false;
  }

  #tell(waiting: Waiting): boolean {
    if (!this.#stream.writable) return false;
    this.#open();
    const bytes = waitingBytes(waiting);
    this.#stream.writeMessage(bytes, 0, bytes.length);
    return true;
  }

  #open(): void {
    if (this.#opened) return;
    this.#opened = true;
    const explanation = this.#explanation;
    this.#stream.sendHeaders([
      ...grpcResponseFields,
      [requestIdHeader, this.#callId],
      ...(explanation ? [[explainHeader, explanationText(explanation)] as const] : []),
    ]);
  }

  #read(bytes: Buffer, start: number, end: number): void {
    const { maxBodyBytes } = this.#parts;
    if (!this.#reader && isWholeMessage(bytes, start, end, maxBodyBytes)) {
      return this.#take(bytes, start + messageHeaderBytes, end);
    }
    this.#reader ??= new GrpcMessageReader({
      maxBytes: maxBodyBytes,
      encoding: this.#encoding,
      onMessage: (message, from, to) => this.#take(message, from, to),
    });
    this.#reader.push(bytes, start, end);
  }

  #take(bytes: Buffer, start: number, end: number): void {
    if (this.#message) throw breach("Generate takes one request message, but the body has more.");
    // From the pool: memory of its own would cost more than all the rest of a short request.
    this.#message = Buffer.allocUnsafe(end - start);
    bytes.copy(this.#message, 0, start, end);
  }

  #begin(): void {
    const { calls, clock } = this.#parts;
    const encoded = this.#message;
    if (!encoded) throw breach("The request body holds no message; Generate takes one.");
    if (!this.#principal) return;
    this.#message = undefined;
    this.#bodyTimer?.cancel();
    this.#bodyTimer = undefined;
    const isLimited = this.#timeoutMs !== Number.POSITIVE_INFINITY;
    const context = {
      callId: this.#callId,
      door: "grpc" as const,
      principal: this.#principal,
      timeoutMs: isLimited ? this.#timeoutMs - (clock.monotonicMs() - this.#startMs) : undefined,
      traceparent: this.#traceparent,
      routing: this.#routing,
      resumes: this.#resumes,
    };
    this.#call = calls.generate({ request: readGenerateRequest(encoded), encoded }, context, this);
  }

  /** For what is wrong before there is a call, which accounts for itself. */
  #refuse(thrown: unknown): void {
    if (this.#over) return;
    const { logger, onBound } = this.#parts;
    this.#bodyTimer?.cancel();
    const error = thrown instanceof ConnectError ? thrown : MeshError.from(thrown);
    const reason = error instanceof MeshError ? error.reason : undefined;
    if (reason === Reason.INTERNAL) logger.error("rpc failed", { callId: this.#callId, error });
    if (reason === Reason.REQUEST_TOO_LARGE) onBound("message_bytes");
    if (reason === Reason.DEADLINE_EXCEEDED) onBound("request_time");
    // One that is too slow has had its time.
    if (reason === Reason.DEADLINE_EXCEEDED || !this.#stream.state.receives) return this.fail(error);
    this.#over = true;
    this.#rest = new RequestRest(() => {
      this.#rest = undefined;
      this.fail(error);
    });
  }
}

function tooSlow(limitMs: number): MeshError {
  const limit = `${Math.round(limitMs)} ms`;
  const message = `The request did not arrive whole within ${limit}; send it faster.`;
  return new MeshError(Reason.DEADLINE_EXCEEDED, message, { limit });
}

/** The code of https://github.com/grpc/grpc/blob/master/doc/statuscodes.md, "Cardinality violation". */
function breach(message: string): ConnectError {
  return new ConnectError(message, Code.Unimplemented);
}

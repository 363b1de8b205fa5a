import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import {
  type AgentHello,
  type ConnectRequest,
  ConnectRequestSchema,
  ConnectResponseSchema,
  type RouterHello,
} from "#gen/helixmesh/link/v1/link_pb.ts";
import type { Clock, Timer } from "#kernel/clock.ts";
import {
  GrpcMessageReader,
  grpcOkTrailers,
  grpcRefusal,
  grpcResponseHeaders,
  grpcTrailers,
} from "#kernel/grpc-messages.ts";
import { unreachable } from "#kernel/invariant.ts";
import type { Logger } from "#kernel/log.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { binaryFault } from "#kernel/message-fault.ts";
import type { HeaderList, StreamEnd, StreamListener, WireStream } from "#kernel/wire/index.ts";
import type { Session, SessionPipe } from "./session.ts";

export interface LinkStreamOptions {
  /** Of one message of the router. */
  readonly maxMessageBytes: number;
  /** How long a router may take to say hello. */
  readonly helloTimeoutMs: number;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Admits the router, or throws a MeshError. The session may send once this has returned. */
  readonly open: (hello: RouterHello, pipe: SessionPipe) => { readonly hello: AgentHello; readonly session: Session };
  /** Once, after a session was opened: nothing of its stream is left. */
  readonly onClosed: (session: Session) => void;
}

type Life =
  | { readonly kind: "greeting"; readonly timer: Timer }
  | { readonly kind: "up"; readonly session: Session }
  /** Only the stream's own end is awaited. */
  | { readonly kind: "over"; readonly session: Session | undefined };

/** `LinkService.Connect` as gRPC on a stream: the hellos, then a session. */
export class LinkStream implements StreamListener, SessionPipe {
  readonly #options: LinkStreamOptions;
  readonly #stream: WireStream;
  readonly #reader: GrpcMessageReader;
  #life: Life;

  constructor(options: LinkStreamOptions, stream: WireStream, headers: HeaderList) {
    const { clock, helloTimeoutMs, maxMessageBytes } = options;
    this.#options = options;
    this.#stream = stream;
    this.#reader = new GrpcMessageReader({
      maxBytes: maxMessageBytes,
      encoding: headers.get("grpc-encoding"),
      onMessage: (bytes, start, end) => this.#onMessage(bytes, start, end),
    });
    const timer = clock.setTimer(helloTimeoutMs, () =>
      this.#fail(new MeshError(Reason.DEADLINE_EXCEEDED, `No RouterHello came within ${helloTimeoutMs} ms.`)),
    );
    this.#life = { kind: "greeting", timer };
  }

  get writable(): boolean {
    return this.#stream.writable;
  }

  send(bytes: Uint8Array, start: number, end: number): void {
    this.#stream.writeMessage(bytes, start, end);
  }

  /** From the session, which is closed then. */
  end(error: MeshError | undefined): void {
    if (this.#life.kind === "up") this.#life = { kind: "over", session: this.#life.session };
    this.#stream.end(error ? grpcTrailers(error) : grpcOkTrailers);
  }

  ping(onAnswer: () => void): void {
    this.#stream.ping(onAnswer);
  }

  cut(reason: string): void {
    this.#options.logger.warn("router lost", { reason });
    this.#stream.cutConnection(reason);
  }

  onData(bytes: Buffer, start: number, end: number): void {
    this.#guard(() => this.#reader.push(bytes, start, end));
    this.#stream.consumed(end - start);
  }

  onEnd(): void {
    this.#guard(() => {
      this.#reader.finish();
      const life = this.#life;
      if (life.kind === "up") life.session.close();
      else if (life.kind === "greeting")
        throw new MeshError(Reason.INVALID_REQUEST, "The link ended before its hello.");
    });
  }

  onDrain(): void {
    if (this.#life.kind === "up") this.#life.session.flushSoon();
  }

  onClose(end: StreamEnd): void {
    const life = this.#life;
    this.#life = { kind: "over", session: undefined };
    switch (life.kind) {
      case "greeting":
        life.timer.cancel();
        return;
      case "up":
        // A router that ends or resets its link lives; one whose connection breaks may have died.
        if (end.kind === "lost") life.session.lost();
        else life.session.close();
        this.#options.onClosed(life.session);
        return;
      case "over":
        if (life.session) this.#options.onClosed(life.session);
        return;
      default:
        unreachable(life);
    }
  }

  /** Whatever goes wrong while a message is handled ends this link and no other. */
  #guard(handle: () => void): void {
    try {
      handle();
    } catch (error) {
      const fault = MeshError.from(error);
      if (fault.reason === Reason.INTERNAL) this.#options.logger.error("link failed", { error });
      this.#fail(fault);
    }
  }

  #fail(error: MeshError): void {
    const life = this.#life;
    switch (life.kind) {
      case "greeting":
        life.timer.cancel();
        this.#life = { kind: "over", session: undefined };
        this.#stream.sendHeaders(grpcRefusal(error), true);
        return;
      case "up":
        life.session.close(error);
        return;
      case "over":
        return;
      default:
        unreachable(life);
    }
  }

  #onMessage(bytes: Buffer, start: number, end: number): void {
    const life = this.#life;
    if (life.kind === "over") return;
    // Copied once: requests stay in it.
    const { frame } = decode(Uint8Array.from(bytes.subarray(start, end)));
    if (life.kind === "greeting") {
      if (frame.case === "hello") return this.#greet(life.timer, frame.value);
      throw new MeshError(Reason.INVALID_REQUEST, "The first message of a link must be RouterHello.", {
        field: "hello",
      });
    }
    if (frame.case === "calls") return life.session.receive(frame.value);
    throw new MeshError(Reason.INVALID_REQUEST, "After the hello only CallBatch may follow.");
  }

  #greet(timer: Timer, routerHello: RouterHello): void {
    const { hello, session } = this.#options.open(routerHello, this);
    timer.cancel();
    this.#life = { kind: "up", session };
    this.#stream.sendHeaders(grpcResponseHeaders);
    const message = create(ConnectResponseSchema, { frame: { case: "hello", value: hello } });
    const bytes = toBinary(ConnectResponseSchema, message);
    this.send(bytes, 0, bytes.length);
  }
}

function decode(bytes: Uint8Array): ConnectRequest {
  try {
    return fromBinary(ConnectRequestSchema, bytes);
  } catch (error) {
    throw binaryFault(ConnectRequestSchema, bytes, error);
  }
}

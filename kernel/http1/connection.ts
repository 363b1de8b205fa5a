import type { Socket } from "node:net";
import { type Timer, systemClock } from "#kernel/clock.ts";
import { DirectRead } from "#kernel/direct-read.ts";
import { DirectWrite } from "#kernel/direct-write.ts";
import { BodyBuffer } from "#kernel/http1/body-buffer.ts";
import type { HotPath } from "#kernel/http1/hot-path.ts";
import { HotResponse } from "#kernel/http1/hot-response.ts";
import { type RequestHead, readPlainHead } from "#kernel/http1/request-head.ts";

export interface ConnectionParts {
  readonly hot: HotPath;
  readonly keepAliveMs: number;
  readonly drainIdleMs: number;
  readonly draining: () => boolean;
  /** The socket is paused, unread from the request on that nobody took, and no longer ours. */
  readonly onHandOver: (connection: Connection) => void;
  readonly onClose: (connection: Connection) => void;
}

/** What a client may still send of a body after its answer, before the connection is cut. */
const lingerMs = 5_000;

const nothing = Buffer.alloc(0);

type State =
  /** Between requests. */
  | { readonly kind: "idle"; readonly sinceMs: number }
  /** A request whose body is coming. */
  | { readonly kind: "receiving"; readonly exchange: Exchange; readonly body: BodyBuffer }
  /** A request that is whole, and its answer is not. */
  | { readonly kind: "answering"; readonly exchange: Exchange }
  /** Answered before its body came: what comes is dropped, so that the answer is not lost to a reset (RFC 9112, 9.6). */
  | { readonly kind: "closing"; readonly timer: Timer }
  /** Not ours, or gone. */
  | { readonly kind: "over" };

interface Exchange {
  readonly head: RequestHead;
  readonly response: HotResponse;
  /** Takes the body. */
  take: (body: Buffer) => void;
}

/**
 * One HTTP/1.1 connection as long as its requests are for the hot path: whole, one after another. At the first that is
 * not, the socket goes to node:http with all bytes from that request on, and for good.
 */
export class Connection {
  readonly socket: Socket;
  readonly #parts: ConnectionParts;
  readonly #direct: DirectWrite | undefined;
  readonly #reads: DirectRead | undefined;
  /** What the last answer's head told the client; it may have sent its next request already. */
  #keepsAlive = true;
  #state: State = { kind: "idle", sinceMs: systemClock.monotonicMs() };
  /** What came behind a request that is not answered yet: at most one read, since no other comes before the answer. */
  #behind: Buffer | undefined;

  constructor(socket: Socket, parts: ConnectionParts) {
    this.socket = socket;
    this.#parts = parts;
    this.#direct = DirectWrite.of(socket);
    this.#reads = DirectRead.of(socket, this.#onData);
    socket.on("data", this.#onData).on("drain", this.#onDrain).on("end", this.#onEnd).on("close", this.#onClose);
  }

  /** Closes it once it has been idle for long enough; an open answer is sent first. */
  drain(): void {
    const state = this.#state;
    if (state.kind !== "idle") return;
    const leftMs = state.sinceMs + this.#parts.drainIdleMs - systemClock.monotonicMs();
    if (leftMs <= 0) this.socket.destroySoon();
    else systemClock.setTimer(Math.ceil(leftMs), () => this.drain(), { unref: true });
  }

  /** Closes it if it has been idle for longer than clients were told. */
  look(nowMs: number): void {
    if (this.#state.kind === "idle" && nowMs - this.#state.sinceMs > this.#parts.keepAliveMs) this.socket.destroySoon();
  }

  /** `chunk` is lent. */
  readonly #onData = (chunk: Buffer): void => {
    this.#take(chunk, 0);
  };

  #take(chunk: Buffer, start: number): void {
    const state = this.#state;
    switch (state.kind) {
      case "idle":
        return this.#begin(chunk, start);
      case "receiving":
        return this.#receive(state, chunk, start);
      case "answering":
        // Pipelined (RFC 9112, 9.3.2).
        this.#behind = Buffer.concat([this.#behind ?? nothing, chunk.subarray(start)]);
        this.socket.pause();
        this.#reads?.pause();
        return;
      case "closing":
      case "over":
    }
  }

  #begin(chunk: Buffer, start: number): void {
    const head = readPlainHead(chunk, start);
    if (!head) return this.#handOver(chunk, start);
    const { hot, keepAliveMs, draining } = this.#parts;
    const bodyStart = start + head.length;
    const bodyEnd = bodyStart + head.contentLength;
    const hasBody = bodyEnd <= chunk.length;
    const response = new HotResponse({
      socket: this.socket,
      direct: this.#direct,
      keepAliveS: Math.floor(keepAliveMs / 1_000),
      keepAlive: () => (this.#keepsAlive = head.keepAlive && this.#state.kind !== "receiving" && !draining()),
      onEnd: () => this.#ended(),
    });
    const exchange: Exchange = { head, response, take() {} };
    const body = hasBody ? undefined : new BodyBuffer(head.contentLength);
    this.#state = body ? { kind: "receiving", exchange, body } : { kind: "answering", exchange };
    const take = hot(head, response, hasBody);
    if (!take) {
      body?.release();
      return this.#handOver(chunk, start);
    }
    exchange.take = take;
    if (body) {
      body.add(chunk, bodyStart);
      return;
    }
    if (bodyEnd < chunk.length) this.#take(chunk, bodyEnd);
    take(chunk.subarray(bodyStart, bodyEnd));
  }

  #receive({ exchange, body }: State & { kind: "receiving" }, chunk: Buffer, start: number): void {
    const end = start + body.add(chunk, start);
    if (body.missing > 0) return;
    this.#state = { kind: "answering", exchange };
    if (end < chunk.length) this.#take(chunk, end);
    exchange.take(body.bytes);
    body.release();
  }

  /** The answer is with the socket. */
  #ended(): void {
    const state = this.#state;
    if (state.kind === "receiving") {
      state.body.release();
      this.#state = { kind: "closing", timer: systemClock.setTimer(lingerMs, () => this.socket.destroy()) };
      this.socket.end();
      return;
    }
    if (state.kind !== "answering") return;
    if (!this.#keepsAlive) {
      this.#state = { kind: "over" };
      this.socket.destroySoon();
      return;
    }
    this.#state = { kind: "idle", sinceMs: systemClock.monotonicMs() };
    if (this.#behind) process.nextTick(() => this.#next());
    else if (this.#parts.draining()) this.drain();
  }

  #next(): void {
    const behind = this.#behind;
    if (!behind || this.#state.kind !== "idle") return;
    this.#behind = undefined;
    this.#begin(behind, 0);
    if (this.#behind) return;
    this.#reads?.resume();
    // One that was handed over is resumed by its new owner.
    this.socket.resume();
  }

  #handOver(chunk: Buffer, start: number): void {
    const { socket } = this;
    this.#state = { kind: "over" };
    socket.off("data", this.#onData).off("drain", this.#onDrain).off("end", this.#onEnd).off("close", this.#onClose);
    this.#reads?.giveBack();
    socket.pause();
    socket.unshift(Buffer.from(chunk.subarray(start)));
    this.#parts.onHandOver(this);
  }

  readonly #onDrain = (): void => {
    const state = this.#state;
    if (state.kind === "answering" || state.kind === "receiving") state.exchange.response.drained();
  };

  /** A client that closes its side gets no answer any more, as with node:http. */
  readonly #onEnd = (): void => {
    if (this.#state.kind !== "closing") this.socket.destroy();
  };

  readonly #onClose = (): void => {
    const state = this.#state;
    this.#state = { kind: "over" };
    this.#behind = undefined;
    if (state.kind === "receiving") state.body.release();
    if (state.kind === "closing") state.timer.cancel();
    if (state.kind === "receiving" || state.kind === "answering") state.exchange.response.closed();
    this.#parts.onClose(this);
  };
}

import { ByteBuffer } from "#kernel/wire/byte-buffer.ts";
import { ReceiveWindow, maxWindowBytes } from "#kernel/wire/flow.ts";
import { Flag, appendMessageHeader, maxFrameBytes, messageHeaderBytes } from "#kernel/wire/frame.ts";
import type { FrameWriter } from "#kernel/wire/frame-writer.ts";
import type { HeaderList } from "#kernel/wire/header-list.ts";
import type { HeaderBlock, HeaderFields } from "#kernel/wire/hpack-encoder.ts";
import type { Bound, WireLimits } from "#kernel/wire/limits.ts";
import { type Closing, type StreamState, afterStreamEvent, openState } from "#kernel/wire/stream-state.ts";
import { ErrorCode } from "#kernel/wire/wire-error.ts";

/** One stream, as its handler sees it. Everything may be called at any time; on a closed stream nothing happens. */
export interface WireStream {
  readonly id: number;
  readonly state: StreamState;
  /** A client's request, a server's response. `end` makes it the whole message. */
  sendHeaders(fields: HeaderFields | HeaderBlock, end?: boolean): void;
  /**
   * Copies `bytes` from `start` to `end` out as DATA. False: bytes now wait for a window or the socket, `onDrain` will
   * tell, and whoever goes on writing nevertheless is reset at `maxStreamWaitingBytes`.
   */
  write(bytes: Uint8Array, start?: number, end?: number): boolean;
  /** As `write`, in one frame behind the header of an uncompressed gRPC message: a zero byte and the length in four. */
  writeMessage(bytes: Uint8Array, start: number, end: number): boolean;
  /** Ends our side behind all that was written. */
  end(trailers?: HeaderFields | HeaderBlock): void;
  /** Ends the stream at once (RFC 9113, 6.4); what waits is dropped and `onClose` is called before this returns. */
  reset(code: number): void;
  /** Gives the peer its window back for bytes that `onData` brought and that nobody holds any more. */
  consumed(bytes: number): void;
  /** Asks the peer for a sign of life (RFC 9113, 6.7); it has read all that was written before, once it answers. */
  ping(onAnswer: () => void): void;
  /** For a peer that is gone: ends the whole connection at once, and `onClose` is told that it was lost. */
  cutConnection(reason: string): void;
  readonly waitingBytes: number;
  /** Nothing waits: the next message goes straight to the socket's buffer, windows permitting. */
  readonly writable: boolean;
}

/** What happens on a stream, each called from the connection's read, in this order. */
export interface StreamListener {
  /** Clients only: the final response's headers. */
  onHeaders?(headers: HeaderList): void;
  /** The bytes are valid during the call only: copy what must last, and call `consumed`. */
  onData(bytes: Buffer, start: number, end: number): void;
  /** The peer's side is complete. */
  onEnd(trailers: HeaderList | undefined): void;
  /** Nothing waits any more. */
  onDrain?(): void;
  /** Once, last, whatever happened. */
  onClose(end: StreamEnd): void;
}

export type StreamEnd =
  | { readonly kind: "complete" }
  /** `unprocessed`: the peer did nothing with the request, so that it is safe to send it again. */
  | {
      readonly kind: "reset";
      readonly by: "peer" | "us";
      readonly code: number;
      readonly reason: string;
      readonly unprocessed: boolean;
    }
  | { readonly kind: "lost"; readonly reason: string; readonly unprocessed: boolean };

/** What a stream needs of its connection. */
export interface StreamHost {
  readonly limits: WireLimits;
  /** The connection's send window. */
  sendWindow: number;
  /** The socket keeps up: DATA may be framed. */
  readonly hasRoom: boolean;
  readonly nowMs: number;
  /** True for a server, which asks a client to stop once its response is complete. */
  readonly stopsRequests: boolean;
  readonly writer: FrameWriter;
  /** DATA or HEADERS were framed. */
  sent(stream: Stream): void;
  consumed(bytes: number): void;
  ping(onAnswer: () => void): void;
  destroy(code: number, reason: string): void;
  /** The bound that keeps the stream from holding more, if any. */
  fullBound(stream: Stream): Bound | undefined;
  reached(bound: Bound): void;
  waitingChanged(stream: Stream, byBytes: number): void;
  closed(stream: Stream, closing: Closing): void;
}

type Ending =
  | { readonly kind: "no" }
  | { readonly kind: "data" }
  | { readonly kind: "trailers"; readonly fields: HeaderFields | HeaderBlock };

const notEnding: Ending = { kind: "no" };
const nothing = new Uint8Array(0);
const complete: StreamEnd = { kind: "complete" };

/** Methods beyond `WireStream` are the connection's. */
export class Stream implements WireStream {
  // What every write needs comes first, so that it lies together.
  readonly id: number;
  /** Bytes that the peer lets us send; negative after it made its windows smaller (RFC 9113, 6.9.2). */
  sendWindow: number;
  readonly #host: StreamHost;
  #state = openState;
  #ending = notEnding;
  #waiting: ByteBuffer | undefined;
  listener: StreamListener;
  /** Since when bytes wait without progress. */
  stalledSinceMs = 0;
  /** Of the peer's message; checked against what comes (RFC 9113, 8.1.1). */
  contentLength: number | undefined;
  /** The peer's headers have come: for a server always, or there were no stream. */
  headersReceived: boolean;
  /** A response to HEAD tells the length of what it does not send (RFC 9113, 8.1.1). */
  head = false;
  readonly #receiveWindow: ReceiveWindow;
  #unconsumed = 0;
  #received = 0;
  /** A write was answered with false and `onDrain` has not been called since. */
  #drainDue = false;
  /** The response is complete, so nobody needs what still comes of the request. */
  #stopping = false;

  constructor(id: number, host: StreamHost, sendWindow: number, listener: StreamListener, headersReceived: boolean) {
    this.id = id;
    this.#host = host;
    this.sendWindow = sendWindow;
    this.listener = listener;
    this.headersReceived = headersReceived;
    this.#receiveWindow = new ReceiveWindow(host.limits.streamWindowBytes);
  }

  get state(): StreamState {
    return this.#state;
  }

  get waitingBytes(): number {
    return this.#waiting === undefined ? 0 : this.#waiting.length;
  }

  get writable(): boolean {
    return this.#waiting === undefined && this.#mayWrite;
  }

  get #mayWrite(): boolean {
    return this.#state.sends && this.#ending === notEnding;
  }

  sendHeaders(fields: HeaderFields | HeaderBlock, end = false): void {
    if (!this.#mayWrite) return;
    this.#host.writer.headers(this.id, fields, end ? Flag.END_STREAM : 0);
    this.#host.sent(this);
    if (end) this.#localEnd();
  }

  write(bytes: Uint8Array, start = 0, end = bytes.length): boolean {
    if (!this.#mayWrite) return false;
    if (start === end) return this.writable;
    if (!this.#takeWindow(end - start)) return this.#wait(false, bytes, start, end);
    this.#host.writer.data(this.id, 0, bytes, start, end);
    return true;
  }

  writeMessage(bytes: Uint8Array, start: number, end: number): boolean {
    if (!this.#mayWrite) return false;
    if (!this.#takeWindow(messageHeaderBytes + end - start)) return this.#wait(true, bytes, start, end);
    this.#host.writer.message(this.id, bytes, start, end);
    return true;
  }

  /** True: `length` bytes may leave at once, in one frame, and are counted as sent. */
  #takeWindow(length: number): boolean {
    const host = this.#host;
    if (
      this.#waiting !== undefined ||
      length > this.sendWindow ||
      length > host.sendWindow ||
      length > maxFrameBytes ||
      !host.hasRoom
    )
      return false;
    this.sendWindow -= length;
    host.sendWindow -= length;
    host.sent(this);
    return true;
  }

  #wait(isMessage: boolean, bytes: Uint8Array, start: number, end: number): boolean {
    const bound = this.#host.fullBound(this);
    if (bound !== undefined) {
      this.#host.reached(bound);
      this.#reset(ErrorCode.ENHANCE_YOUR_CALM, `too many bytes wait for the peer to read them (${bound})`);
      return false;
    }
    if (this.#waiting === undefined) {
      this.#waiting = new ByteBuffer();
      this.stalledSinceMs = this.#host.nowMs;
    }
    const before = this.#waiting.length;
    if (isMessage) appendMessageHeader(this.#waiting, end - start);
    this.#waiting.append(bytes, start, end);
    this.#host.waitingChanged(this, this.#waiting.length - before);
    this.pump(Infinity);
    this.#drainDue = this.#waiting !== undefined;
    return this.writable;
  }

  ping(onAnswer: () => void): void {
    this.#host.ping(onAnswer);
  }

  cutConnection(reason: string): void {
    this.#host.destroy(ErrorCode.CONNECT_ERROR, reason);
  }

  /** Sends what waits, at most `frames` frames of it. True when more could be sent. */
  pump(frames: number): boolean {
    const host = this.#host;
    for (let sent = 0; this.#waiting !== undefined; sent++) {
      const waiting = this.#waiting;
      const length = Math.min(waiting.length, this.sendWindow, host.sendWindow, maxFrameBytes);
      if (length <= 0 || !host.hasRoom) return false;
      if (sent === frames) return true;
      const last = length === waiting.length;
      const ends = last && this.#ending.kind === "data";
      this.sendWindow -= length;
      host.sendWindow -= length;
      host.writer.data(this.id, ends ? Flag.END_STREAM : 0, waiting.bytes, waiting.start, waiting.start + length);
      host.sent(this);
      waiting.skip(length);
      this.stalledSinceMs = host.nowMs;
      if (last) this.#waiting = undefined;
      host.waitingChanged(this, -length);
      if (ends) this.#localEnd();
    }
    if (this.#ending.kind === "trailers") this.#sendTrailers(this.#ending.fields);
    else if (this.#drainDue) this.#drained();
    return false;
  }

  #drained(): void {
    this.#drainDue = false;
    if (this.#mayWrite) this.listener.onDrain?.();
  }

  end(trailers?: HeaderFields | HeaderBlock): void {
    if (!this.#mayWrite) return;
    if (this.#waiting !== undefined) {
      this.#ending = trailers === undefined ? { kind: "data" } : { kind: "trailers", fields: trailers };
    } else if (trailers !== undefined) {
      this.#sendTrailers(trailers);
    } else {
      if (!this.#host.writer.endInPlace(this.id)) this.#host.writer.data(this.id, Flag.END_STREAM, nothing, 0, 0);
      this.#localEnd();
    }
  }

  #sendTrailers(fields: HeaderFields | HeaderBlock): void {
    this.#host.writer.headers(this.id, fields, Flag.END_STREAM);
    this.#localEnd();
  }

  #localEnd(): void {
    this.#ending = notEnding;
    this.#state = afterStreamEvent(this.#state, "local end");
    if (this.#state.kind === "closed") {
      this.#close("ended", complete);
    } else if (this.#host.stopsRequests) {
      this.#stopping = true;
      // In a write of its own: a node:http2 client that resets the stream because it has no memory for the headers
      // would take this for its end, and wait for ever.
      setImmediate(() => setImmediate(() => this.#stop()));
    }
  }

  /** RFC 9113, 8.1: the rest of the request is not needed, and a client that never ends it must not hold a stream. */
  #stop(): void {
    if (this.#state.kind === "closed") return;
    this.#host.writer.reset(this.id, ErrorCode.NO_ERROR);
    this.#close("reset by us", complete);
  }

  reset(code: number): void {
    this.#reset(code, "reset by its handler");
  }

  /** For a fault of the peer on this stream alone (RFC 9113, 5.4.2). */
  fail(code: number, reason: string): void {
    this.#reset(code, reason);
  }

  #reset(code: number, reason: string): void {
    if (this.#state.kind === "closed") return;
    this.#host.writer.reset(this.id, code);
    this.#close("reset by us", { kind: "reset", by: "us", code, reason, unprocessed: false });
  }

  #close(closing: Closing, end: StreamEnd): void {
    this.#state = afterStreamEvent(this.#state, "reset");
    if (this.#waiting !== undefined) {
      const { length } = this.#waiting;
      this.#waiting.release();
      this.#waiting = undefined;
      this.#host.waitingChanged(this, -length);
    }
    const unconsumed = this.#unconsumed;
    this.#unconsumed = 0;
    this.#host.closed(this, closing);
    if (unconsumed > 0) this.#host.consumed(unconsumed);
    this.listener.onClose(end);
  }

  consumed(bytes: number): void {
    const known = Math.min(bytes, this.#unconsumed);
    if (known <= 0) return;
    this.#unconsumed -= known;
    this.#host.consumed(known);
    const increment = this.#receiveWindow.consume(known);
    if (increment > 0 && this.#state.receives) this.#host.writer.windowUpdate(this.id, increment);
  }

  /** Counts a DATA frame against the window; false when it exceeds it. */
  receive(length: number): boolean {
    if (!this.#receiveWindow.receive(length)) return false;
    this.#unconsumed += length;
    return true;
  }

  receiveData(bytes: Buffer, start: number, end: number): void {
    this.#received += end - start;
    if (this.contentLength !== undefined && this.#received > this.contentLength) {
      return this.#receiveTooMuch(bytes, start, end - (this.#received - this.contentLength));
    }
    if (!this.#stopping) this.listener.onData(bytes, start, end);
  }

  /** RFC 9113, 8.1.1. What is within the length is told, or it would depend on how the bytes were split. */
  #receiveTooMuch(bytes: Buffer, start: number, end: number): void {
    if (end > start && !this.#stopping) this.listener.onData(bytes, start, end);
    this.fail(ErrorCode.PROTOCOL_ERROR, "more DATA than content-length");
  }

  receiveHeaders(headers: HeaderList): void {
    this.headersReceived = true;
    if (!this.head && headers.status !== "304") this.contentLength = headers.contentLength;
    this.listener.onHeaders?.(headers);
  }

  receiveEnd(trailers: HeaderList | undefined): void {
    if (!this.#state.receives) return;
    if (this.contentLength !== undefined && this.#received !== this.contentLength) {
      this.fail(ErrorCode.PROTOCOL_ERROR, "less DATA than content-length");
      return;
    }
    const next = afterStreamEvent(this.#state, "remote end");
    this.#state = next;
    if (!this.#stopping) this.listener.onEnd(trailers);
    // Where our side was still open, its end closes the stream, maybe already in `onEnd`.
    if (next.kind === "closed") this.#close("ended", complete);
  }

  receiveReset(code: number): void {
    const unprocessed = code === ErrorCode.REFUSED_STREAM;
    this.#close("reset by peer", { kind: "reset", by: "peer", code, reason: "reset by the peer", unprocessed });
  }

  /** False: the peer's window exceeds what RFC 9113, 6.9.1 allows. */
  widen(increment: number): boolean {
    this.sendWindow += increment;
    return this.sendWindow <= maxWindowBytes;
  }

  lose(reason: string, unprocessed: boolean): void {
    if (this.#state.kind === "closed") return;
    this.#close("reset by us", { kind: "lost", reason, unprocessed });
  }
}

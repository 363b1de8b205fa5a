import type { Socket } from "node:net";
import type { Clock } from "#kernel/clock.ts";
import { DirectWrite } from "#kernel/direct-write.ts";
import { ByteBuffer, give } from "#kernel/wire/byte-buffer.ts";

const dirty: Outlet[] = [];
const flushing: Outlet[] = [];
let lastWords: (() => void)[] = [];
let flushDue = false;

/** Everything written in one turn of the event loop leaves when the turn ends: one system call a connection. */
function flushSoon(): void {
  if (flushDue) return;
  flushDue = true;
  setImmediate(flushAll);
}

/** Runs `write` once when this turn ends, right before its bytes leave: for whoever joins what a turn brought. */
export function atTurnEnd(write: () => void): void {
  lastWords.push(write);
  flushSoon();
}

function flushAll(): void {
  const writes = lastWords;
  if (writes.length > 0) lastWords = [];
  try {
    for (const write of writes) write();
  } finally {
    flushDue = false;
    flushing.push(...dirty);
    dirty.length = 0;
    for (const outlet of flushing) outlet.flush();
    flushing.length = 0;
  }
}

/** Bytes held by all connections that share it. */
export interface ByteBudget {
  usedBytes: number;
}

interface OutletParts {
  readonly clock: Clock;
  readonly budget: ByteBudget;
  readonly maxUnsentBytes: number;
  /** Runs when the socket took all it was given, while `isWanted`. */
  readonly onSent: () => void;
  /** Runs when `maxUnsentBytes` were passed while the socket takes nothing. */
  readonly onOverflow: () => void;
}

/**
 * The way out of a connection: bytes are appended, and `touch` sees that they leave. It is the buffer, and the writer of
 * frames is the outlet: a token on a connection of its own reads each object of that connection from memory.
 */
export class Outlet extends ByteBuffer {
  /** When the socket was given what it has not yet passed on. */
  busySinceMs = 0;
  /** Somebody waits for room. */
  isWanted = false;
  readonly #socket: Socket;
  readonly #parts: OutletParts;
  #direct: DirectWrite | undefined;
  #scheduled = false;
  #writesStarted = 0;
  #writesFinished = 0;
  #inFlight = 0;
  #memory: Buffer | undefined;
  #counted = 0;
  #flushes = 0;
  #finished = false;

  constructor(socket: Socket, parts: OutletParts) {
    super();
    this.#socket = socket;
    this.#parts = parts;
  }

  /** Framed and not yet with the operating system. */
  get unsent(): number {
    return this.length + this.#inFlight;
  }

  /** The socket still holds the last flush. */
  get busy(): boolean {
    return this.#inFlight > 0;
  }

  /** Changes whenever the bytes were taken away to be sent. */
  get flushes(): number {
    return this.#flushes;
  }

  touch(): void {
    if (this.#inFlight > 0) {
      this.#count();
      // Not at once: whoever is writing must not lose its stream in the middle of a call.
      if (this.unsent > this.#parts.maxUnsentBytes) setImmediate(this.#parts.onOverflow);
    } else if (!this.#scheduled) {
      this.#scheduled = true;
      dirty.push(this);
      flushSoon();
    }
  }

  flush(): void {
    this.#scheduled = false;
    if (this.#inFlight > 0 || this.length === 0) return;
    // A direct write says itself that the socket is gone; to ask the stream costs as much as all the rest of this.
    if (this.#finished || (this.#direct === undefined && !this.#socket.writable)) {
      this.release();
      return;
    }
    const { length } = this;
    const memory = this.detach();
    this.#memory = memory;
    this.#inFlight = length;
    this.#flushes += 1;
    // Usually the system takes all at once, and the memory is free again.
    if (this.#send(memory.subarray(0, length))) return this.#settle();
    this.busySinceMs = this.#parts.clock.monotonicMs();
    this.#count();
  }

  /** True: the system has all of it, and the bytes are read no more. */
  #send(bytes: Buffer): boolean {
    const socket = this.#socket;
    this.#direct ??= DirectWrite.of(socket);
    if (this.#direct !== undefined && this.#writesStarted === this.#writesFinished) {
      const result = this.#direct.write(bytes, this.#onSent);
      if (result !== "failed") return result === "sent";
      // The stream will fail alike, and knows how to say so.
    }
    this.#writesStarted += 1;
    socket.write(bytes, this.#onWritten);
    return socket.writableLength === 0;
  }

  /** Sends what is left, then FIN. */
  finish(): void {
    this.flush();
    if (this.#inFlight > 0 && this.length > 0) {
      // Behind the write in flight; the socket keeps order.
      this.#socket.write(Buffer.from(this.bytes.subarray(this.start, this.end)));
      this.release();
    }
    this.#finished = true;
    this.#socket.end();
  }

  /** The socket is gone. */
  discard(): void {
    this.#finished = true;
    this.release();
    this.#inFlight = 0;
    this.#memory = undefined;
    this.#count();
  }

  #settle(): void {
    if (this.#memory) give(this.#memory);
    this.#memory = undefined;
    this.#inFlight = 0;
    this.#count();
    if (this.isWanted) this.#parts.onSent();
  }

  /** Of a direct write that had to wait. */
  readonly #onSent = (status: number): void => {
    if (status < 0) this.#socket.destroy();
    if (this.#inFlight === 0) return;
    this.#settle();
    this.flush();
  };

  /** Of each write through the stream; several may be under way only at the end. */
  readonly #onWritten = (): void => {
    this.#writesFinished += 1;
    if (this.#inFlight === 0 || this.#writesFinished < this.#writesStarted) return;
    this.#settle();
    this.flush();
  };

  #count(): void {
    const held = this.#inFlight > 0 ? this.unsent : 0;
    if (held === this.#counted) return;
    this.#parts.budget.usedBytes += held - this.#counted;
    this.#counted = held;
  }
}

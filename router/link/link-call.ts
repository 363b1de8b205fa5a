import type { CallEnd } from "#gen/helixmesh/link/v1/link_pb.ts";
import type { LinkReplica } from "./link-replica.ts";
import type { DeltaSink } from "./response-reader.ts";
import { Tape } from "./tape.ts";

/** Who is given what a call generates. */
export interface ResponseTaker {
  /** One encoded response, in order. The bytes are lent for the call: copy what must last. */
  onResponse(bytes: Uint8Array, start: number, end: number): void;
}

export interface MessageWriter {
  /** Copies one encoded response. False: taken, but the client does not keep up. */
  writeMessage(bytes: Uint8Array, start: number, end: number): boolean;
}

/** A taker that need not see each response, as long as each is copied and the client keeps up. */
export interface Relay extends ResponseTaker {
  /** Who is given the next responses in its place, each once `tape` has it; undefined: not now. */
  direct(tape: Tape): MessageWriter | undefined;
  /** One that the tape could not copy; the writer gets it all the same. */
  keep(bytes: Uint8Array, start: number, end: number): void;
  /** The writer returned false, and gets nothing more until `direct` names it again. */
  pause(): void;
}

/** What whoever began a call hears of its place on the link. */
export interface LinkCallEvents extends ResponseTaker {
  /** Last, once. A lost link ends its calls with NODE_LOST. */
  onEnd(end: CallEnd): void;
}

/**
 * One call on a link. A token of it is a few steps through memory that everybody else's tokens have been through since,
 * so its way is short (from here to the delivery, and from there to the client's connection), and what is counted for
 * each token is counted here, in fields without an object of their own.
 */
export class LinkCall extends Tape implements DeltaSink {
  #writer: MessageWriter | undefined;
  #tokens = 0;
  /** When the last tokens came: tenths of milliseconds of the monotonic clock, modulo 2^32. */
  #lastTick = 0;
  #firstTokens = 0;
  #firstTokenMs: number | undefined;
  #taker: ResponseTaker;
  #relay: Relay | undefined;
  readonly number: number;
  readonly replica: LinkReplica;
  readonly #events: LinkCallEvents;
  readonly #link: { cancel(number: number): void };

  constructor(number: number, replica: LinkReplica, events: LinkCallEvents, link: { cancel(number: number): void }) {
    super();
    this.number = number;
    this.replica = replica;
    this.#events = this.#taker = events;
    this.#link = link;
  }

  /** Tokens that were generated for it here. */
  get tokens(): number {
    return this.#tokens;
  }

  /** Those of the first step that brought any. */
  get firstTokens(): number {
    return this.#firstTokens;
  }

  /** When that step came, on the monotonic clock; undefined before. */
  get firstTokenMs(): number | undefined {
    return this.#firstTokenMs;
  }

  /** When the last tokens came, to a tenth of a millisecond; of no meaning before the first. */
  lastTokenMs(nowMs: number): number {
    return nowMs - ((tickOf(nowMs) - this.#lastTick) | 0) / 10;
  }

  /** Its responses go to `relay` and no longer to whoever began it, until it is cancelled. */
  relayTo(relay: Relay): void {
    this.#taker = this.#relay = relay;
  }

  /** Stops the call; its end still comes, to whoever began it. Harmless after it. */
  cancel(): void {
    this.#taker = this.#events;
    this.#relay = undefined;
    this.#writer = undefined;
    this.#link.cancel(this.number);
  }

  onResponse(bytes: Uint8Array, start: number, end: number): void {
    const writer = this.#writer;
    if (writer === undefined) {
      this.#taker.onResponse(bytes, start, end);
      this.#writer = this.#relay?.direct(this);
      return;
    }
    if (!this.copy(bytes, start, end)) this.#relay?.keep(bytes, start, end);
    if (writer.writeMessage(bytes, start, end)) return;
    this.#writer = undefined;
    this.#relay?.pause();
  }

  onTokens(count: number, nowMs: number): void {
    if (this.#tokens === 0) {
      this.#firstTokens = count;
      this.#firstTokenMs = nowMs;
    }
    this.#tokens += count;
    this.#lastTick = tickOf(nowMs);
  }

  onEnd(end: CallEnd): void {
    this.#events.onEnd(end);
  }
}

/** A small integer for 59 hours, and differences are right for as long after it wraps: longer than any call lasts. */
function tickOf(ms: number): number {
  return Math.floor(ms * 10) | 0;
}

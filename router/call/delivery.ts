import { unreachable } from "#kernel/invariant.ts";
import type { MeshError } from "#kernel/mesh-error.ts";
import type { MessageWriter, Relay } from "../link/link-call.ts";
import type { Tape } from "../link/tape.ts";
import type { Recording } from "./recording.ts";
import type { ResponseSink } from "./sink.ts";

type Ending =
  | { readonly kind: "open" }
  /** Behind what waits. */
  | { readonly kind: "finishing" }
  | { readonly kind: "failing"; readonly error: MeshError }
  | { readonly kind: "over" };

/**
 * Between a link, which never waits, and a sink, which goes at its client's pace: what comes is recorded, and what the
 * sink does not take waits here, up to a bound. The end comes behind what waits. While nothing waits, the link writes to
 * the sink itself.
 */
export class Delivery implements Relay {
  readonly #recording: Recording;
  readonly #sink: ResponseSink;
  #paused = false;
  readonly #maxBytes: number;
  readonly #onFull: () => void;
  #waiting: Uint8Array[] = [];
  /** Index of the first one that waits; shifting an array would cost its length. */
  #head = 0;
  #bytes = 0;
  #ending: Ending = { kind: "open" };

  /** `onFull`: what came does not fit, the client is too slow, and the owner ends the call. */
  constructor(recording: Recording, sink: ResponseSink, maxBytes: number, onFull: () => void) {
    this.#recording = recording;
    this.#sink = sink;
    this.#maxBytes = maxBytes;
    this.#onFull = onFull;
  }

  get #isEmpty(): boolean {
    return this.#head === this.#waiting.length;
  }

  /** The answer begins anew as if nothing of it had been pushed. False: too late. */
  restart(): boolean {
    if (!this.#sink.restart()) return false;
    this.#clear();
    return true;
  }

  onResponse(bytes: Uint8Array, start: number, end: number): void {
    this.#recording.add(bytes, start, end);
    if (this.#paused) this.#hold(bytes, start, end);
    else this.#paused = !this.#sink.writeMessage(bytes, start, end);
  }

  direct(tape: Tape): MessageWriter | undefined {
    if (this.#paused || this.#ending.kind !== "open") return undefined;
    this.#recording.lend(tape);
    return this.#sink.direct ?? this.#sink;
  }

  keep(bytes: Uint8Array, start: number, end: number): void {
    this.#recording.add(bytes, start, end);
  }

  pause(): void {
    this.#paused = true;
  }

  resume(): void {
    this.#paused = false;
    for (;;) {
      const next = this.#waiting[this.#head];
      if (!next) return this.#end();
      this.#head += 1;
      this.#bytes -= next.length;
      if (this.#head === this.#waiting.length) this.#clear();
      if (this.#sink.writeMessage(next, 0, next.length)) continue;
      this.#paused = true;
      return;
    }
  }

  finish(): void {
    if (this.#ending.kind !== "open") return;
    this.#ending = { kind: "finishing" };
    if (this.#isEmpty) this.#end();
  }

  fail(error: MeshError): void {
    if (this.#ending.kind !== "open") return;
    this.#ending = { kind: "failing", error };
    if (this.#isEmpty) this.#end();
  }

  /** The error comes at once, in the place of what waits. */
  stop(error: MeshError): void {
    this.#clear();
    this.fail(error);
  }

  /** As `stop`, for a client that does not read. */
  cut(error: MeshError): void {
    this.#clear();
    if (this.#ending.kind !== "open") return;
    this.#ending = { kind: "over" };
    this.#sink.cut(error);
  }

  #hold(bytes: Uint8Array, start: number, end: number): void {
    const length = end - start;
    // One response always fits: it may be larger than the bound, and it is in memory already.
    if (!this.#isEmpty && this.#bytes + length > this.#maxBytes) return this.#onFull();
    this.#waiting.push(new Uint8Array(bytes.subarray(start, end)));
    this.#bytes += length;
  }

  #end(): void {
    const ending = this.#ending;
    switch (ending.kind) {
      case "open":
      case "over":
        return;
      case "finishing":
        this.#ending = { kind: "over" };
        return this.#sink.finish();
      case "failing":
        this.#ending = { kind: "over" };
        return this.#sink.fail(ending.error);
      default:
        unreachable(ending);
    }
  }

  #clear(): void {
    this.#waiting = [];
    this.#head = 0;
    this.#bytes = 0;
  }
}

import { unreachable } from "#kernel/invariant.ts";
import type { MeshError } from "#kernel/mesh-error.ts";
import type { ResponseSink } from "./sink.ts";

type Ending =
  | { readonly kind: "open" }
  /** Behind what waits. */
  | { readonly kind: "finishing" }
  | { readonly kind: "failing"; readonly error: MeshError }
  | { readonly kind: "over" };

/**
 * Between a link, which never waits, and a sink, which goes at its client's pace: what the sink does not take waits
 * here, up to a bound. The end comes behind what waits.
 */
export class Delivery {
  readonly #sink: ResponseSink;
  readonly #maxBytes: number;
  #paused = false;
  #waiting: Uint8Array[] = [];
  /** Index of the first one that waits; shifting an array would cost its length. */
  #head = 0;
  #bytes = 0;
  #ending: Ending = { kind: "open" };

  constructor(sink: ResponseSink, maxBytes: number) {
    this.#sink = sink;
    this.#maxBytes = maxBytes;
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

  /** Lent bytes, as for a sink. False: they do not fit, the client is too slow, and the caller ends the call. */
  push(bytes: Uint8Array, start: number, end: number): boolean {
    if (!this.#paused) {
      this.#paused = !this.#sink.write(bytes, start, end);
      return true;
    }
    const length = end - start;
    // One response always fits: it may be larger than the bound, and it is in memory already.
    if (!this.#isEmpty && this.#bytes + length > this.#maxBytes) return false;
    this.#waiting.push(new Uint8Array(bytes.subarray(start, end)));
    this.#bytes += length;
    return true;
  }

  resume(): void {
    this.#paused = false;
    for (;;) {
      const next = this.#waiting[this.#head];
      if (!next) return this.#end();
      this.#head += 1;
      this.#bytes -= next.length;
      if (this.#head === this.#waiting.length) this.#clear();
      if (this.#sink.write(next, 0, next.length)) continue;
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

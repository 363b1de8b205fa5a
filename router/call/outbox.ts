import type { Waiting } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import type { MeshError } from "#kernel/mesh-error.ts";
import type { ResponseSink, RunningCall } from "./sink.ts";

export interface OutboxOptions {
  /** Aborts when the consumer's client goes away. */
  readonly signal: AbortSignal;
  /** Ends the client's response at once, without waiting for it to read. */
  readonly cutClient?: (() => void) | undefined;
  /** What a client that asked is sent of a wait, between the responses; undefined for one that did not. */
  readonly encodeWaiting?: ((waiting: Waiting) => Uint8Array) | undefined;
}

/**
 * A call's answer as an async iterator, for doors that go at their consumer's pace. Holds at most one response; the call
 * keeps the rest. Single consumer; one that returns early aborts the call.
 */
export class Outbox implements ResponseSink, AsyncIterableIterator<Uint8Array, undefined, undefined> {
  readonly wait: ((waiting: Waiting) => boolean) | undefined;
  readonly #call: RunningCall;
  readonly #options: OutboxOptions;
  readonly #onAbort = (): void => this.#call.abort(this.#options.signal.reason);
  #item: Uint8Array | undefined;
  #end: { readonly error: Error | undefined } | undefined;
  #waiter: PromiseWithResolvers<IteratorResult<Uint8Array, undefined>> | undefined;

  /** `begin` starts the call whose answer comes here. */
  constructor(begin: (sink: ResponseSink) => RunningCall, options: OutboxOptions) {
    const { signal, encodeWaiting } = options;
    this.wait = encodeWaiting && ((waiting) => this.#tell(encodeWaiting(waiting)));
    this.#options = options;
    signal.addEventListener("abort", this.#onAbort, { once: true });
    this.#call = begin(this);
    if (signal.aborted) this.#onAbort();
  }

  writeMessage(bytes: Uint8Array, start: number, end: number): boolean {
    const item = new Uint8Array(bytes.subarray(start, end));
    if (!this.#waiter) {
      this.#item = item;
      return false;
    }
    this.#hand(this.#waiter, item);
    return true;
  }

  finish(): void {
    this.#settle(undefined);
  }

  fail(error: MeshError): void {
    this.#settle(error);
  }

  cut(error: MeshError): void {
    this.#item = undefined;
    this.#settle(error);
    this.#options.cutClient?.();
  }

  restart(): boolean {
    return false;
  }

  next(): Promise<IteratorResult<Uint8Array, undefined>> {
    const item = this.#item;
    if (item) {
      this.#item = undefined;
      this.#call.resume();
      return Promise.resolve({ done: false, value: item });
    }
    if (this.#end) {
      const { error } = this.#end;
      this.#end = { error: undefined };
      return error ? Promise.reject(error) : Promise.resolve({ done: true, value: undefined });
    }
    this.#waiter = Promise.withResolvers();
    return this.#waiter.promise;
  }

  return(): Promise<IteratorResult<Uint8Array, undefined>> {
    this.#item = undefined;
    if (!this.#end) {
      this.#call.abort();
      this.#settle(undefined);
    }
    return Promise.resolve({ done: true, value: undefined });
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  /** Not to a consumer that is busy with what it has. */
  #tell(item: Uint8Array): boolean {
    if (!this.#waiter) return false;
    this.#hand(this.#waiter, item);
    return true;
  }

  #hand(waiter: PromiseWithResolvers<IteratorResult<Uint8Array, undefined>>, value: Uint8Array): void {
    this.#waiter = undefined;
    waiter.resolve({ done: false, value });
  }

  #settle(error: Error | undefined): void {
    if (this.#end) return;
    this.#options.signal.removeEventListener("abort", this.#onAbort);
    const waiter = this.#waiter;
    if (!waiter) {
      this.#end = { error };
      return;
    }
    this.#waiter = undefined;
    this.#end = { error: undefined };
    if (error) waiter.reject(error);
    else waiter.resolve({ done: true, value: undefined });
  }
}

/**
 * What a call has for its client and the client has not taken: the bounded buffer between the link, which never waits,
 * and a door, which goes at the client's pace. Single consumer.
 */
export class Outbox implements AsyncIterableIterator<Uint8Array, undefined, undefined> {
  readonly #maxBytes: number;
  /** Called once when the consumer stops early. */
  readonly #onAbandoned: () => void;
  #items: Uint8Array[] = [];
  /** Index of the first item not yet taken; shifting an array would cost its length. */
  #head = 0;
  #bytes = 0;
  #end: { readonly error: Error | undefined } | undefined;
  #waiter: PromiseWithResolvers<IteratorResult<Uint8Array, undefined>> | undefined;

  constructor(maxBytes: number, onAbandoned: () => void) {
    this.#maxBytes = maxBytes;
    this.#onAbandoned = onAbandoned;
  }

  /** False when the item did not fit: the consumer is too slow, and the caller ends the call. */
  push(item: Uint8Array): boolean {
    if (this.#end) return true;
    if (this.#waiter) {
      const waiter = this.#waiter;
      this.#waiter = undefined;
      waiter.resolve({ done: false, value: item });
      return true;
    }
    // One item always fits: a single answer may be larger than the bound, and it is in memory already.
    if (this.#bytes > 0 && this.#bytes + item.length > this.#maxBytes) return false;
    this.#items.push(item);
    this.#bytes += item.length;
    return true;
  }

  /** After what is buffered, the consumer gets the end. */
  finish(): void {
    this.#settle({ error: undefined });
  }

  /** The consumer gets the error next; what is buffered is dropped when `drop` is set. */
  fail(error: Error, drop = false): void {
    if (drop) this.#clear();
    this.#settle({ error });
  }

  next(): Promise<IteratorResult<Uint8Array, undefined>> {
    const item = this.#items[this.#head];
    if (item) {
      this.#head += 1;
      this.#bytes -= item.length;
      if (this.#head === this.#items.length) this.#clear();
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
    if (!this.#end) {
      this.#onAbandoned();
      this.#clear();
      this.#settle({ error: undefined });
    }
    return Promise.resolve({ done: true, value: undefined });
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  #settle(end: { readonly error: Error | undefined }): void {
    if (this.#end) return;
    const waiter = this.#waiter;
    if (!waiter) {
      this.#end = end;
      return;
    }
    this.#waiter = undefined;
    this.#end = { error: undefined };
    if (end.error) waiter.reject(end.error);
    else waiter.resolve({ done: true, value: undefined });
  }

  #clear(): void {
    this.#items = [];
    this.#head = 0;
    this.#bytes = 0;
  }
}

import type { RecordingBudget } from "./recording-budget.ts";

/** Enough for the answer of a short call: it stays within one piece of Node's buffer pool. */
const firstBytes = 512;

/** Why there is no whole recording. `call`, `total`: which limit it outgrew. */
export type NotRecorded = "off" | "call" | "total";

const nothing = Buffer.alloc(0);

/**
 * The responses that one call has relayed, kept so that another replica can go on behind them: copied into one buffer
 * that doubles, each behind its length, within a limit of its own and one for all calls. A recording that reaches a limit
 * is dropped whole, since a part of an answer cannot be continued. Every token passes here, between two of the same call
 * everything else has been through the processor's cache: so it is one object and one place in one buffer.
 */
export class Recording {
  /** Why nothing is recorded; undefined while all is. */
  #notRecorded: NotRecorded | undefined;
  #buffer = nothing;
  #length = 0;
  readonly #budget: RecordingBudget;

  constructor(budget: RecordingBudget, wanted: boolean) {
    this.#budget = budget;
    this.#notRecorded = wanted && budget.settings.maxMigrationBytes > 0 ? undefined : "off";
  }

  /** Copies one response. */
  add(bytes: Uint8Array, start: number, end: number): void {
    if (this.#notRecorded !== undefined) return;
    const size = end - start;
    const needed = this.#length + prefixBytes(size) + size;
    if (needed > this.#buffer.length && !this.#grow(needed)) return;
    const buffer = this.#buffer;
    let at = this.#length;
    let rest = size;
    for (; rest > 0x7f; rest >>>= 7) buffer[at++] = (rest & 0x7f) | 0x80;
    buffer[at++] = rest;
    // Most responses are a few dozen bytes, for which a loop costs less than the call of a copy.
    if (size <= 64) for (let from = start; from < end; from++) buffer[at++] = bytes[from] as number;
    else buffer.set(bytes.subarray(start, end), at);
    this.#length = size <= 64 ? at : at + size;
  }

  /** Views of all responses, valid until the next change; why there are none where they are not all here. */
  read(): readonly Uint8Array[] | NotRecorded {
    if (this.#notRecorded !== undefined) return this.#notRecorded;
    const responses: Uint8Array[] = [];
    const buffer = this.#buffer;
    for (let at = 0; at < this.#length;) {
      let size = 0;
      for (let shift = 0, more = true; more; shift += 7) {
        const byte = buffer[at++] as number;
        size |= (byte & 0x7f) << shift;
        more = byte > 0x7f;
      }
      responses.push(buffer.subarray(at, at + size));
      at += size;
    }
    return responses;
  }

  /** The answer begins anew. */
  restart(): void {
    if (this.#notRecorded !== undefined) return;
    this.#budget.give(this.#buffer.length);
    // Not overwritten: an earlier start may still wait to leave with views of it.
    this.#buffer = nothing;
    this.#length = 0;
  }

  /** Frees its memory; nothing is recorded any more. */
  end(): void {
    this.#drop("off");
  }

  #grow(needed: number): boolean {
    const { maxMigrationBytes } = this.#budget.settings;
    const held = this.#buffer;
    if (needed > maxMigrationBytes) {
      this.#budget.dropped("call");
      this.#drop("call");
      return false;
    }
    const size = Math.min(maxMigrationBytes, Math.max(firstBytes, needed, held.length * 2));
    if (!this.#budget.take(size - held.length)) {
      this.#drop("total");
      return false;
    }
    this.#buffer = Buffer.allocUnsafe(size);
    held.copy(this.#buffer, 0, 0, this.#length);
    return true;
  }

  #drop(why: NotRecorded): void {
    if (this.#notRecorded !== undefined) return;
    this.#budget.give(this.#buffer.length);
    this.#buffer = nothing;
    this.#notRecorded = why;
  }
}

/** Of the length before a response: a varint, as protobuf writes one. */
function prefixBytes(size: number): number {
  let bytes = 1;
  for (let rest = size; rest > 0x7f; rest >>>= 7) bytes += 1;
  return bytes;
}

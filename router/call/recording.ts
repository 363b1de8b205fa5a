import { Tape } from "../link/tape.ts";
import { type Piece, type RecordingMemory, pieceBytes } from "./recording-memory.ts";

/** Why there is no whole recording. `call`, `total`: which limit it outgrew. */
export type NotRecorded = "off" | "call" | "total";

const lengthBytes = Buffer.alloc(5);

/**
 * The responses that one call has relayed, kept so that another replica can go on behind them: each behind its length, in
 * pieces of memory, within a limit of its own and one for all calls. A recording that reaches a limit is dropped whole,
 * since a part of an answer cannot be continued. It is its own tape until it lends that to whoever relays.
 */
export class Recording extends Tape {
  /** Why nothing is recorded; undefined while all is. */
  #notRecorded: NotRecorded | undefined;
  #pieces: Piece[] = [];
  /** What the next response is copied to. */
  #tape: Tape = this;
  readonly #shared: RecordingMemory;

  constructor(shared: RecordingMemory, wanted: boolean) {
    super();
    this.#shared = shared;
    if (wanted && shared.settings.maxMigrationBytes > 0) this.reset(0);
    else this.#notRecorded = "off";
  }

  /** From now on `tape` copies what passes it, and brings here what it cannot copy. */
  lend(tape: Tape): void {
    if (tape === this.#tape) return;
    this.#tape.handOver(tape);
    this.#tape = tape;
  }

  /** Copies one response. */
  add(bytes: Uint8Array, start: number, end: number): void {
    if (this.#tape.copy(bytes, start, end)) return;
    const size = end - start;
    let length = 0;
    for (let rest = size; rest > 0x7f; rest >>>= 7) lengthBytes[length++] = (rest & 0x7f) | 0x80;
    lengthBytes[length] = size >>> (7 * length);
    if (this.#append(lengthBytes, 0, length + 1)) this.#append(bytes, start, end);
  }

  /** Views of a copy of all responses; why there is none where they are not all here. */
  read(): readonly Uint8Array[] | NotRecorded {
    if (this.#notRecorded !== undefined) return this.#notRecorded;
    const responses: Uint8Array[] = [];
    const buffer = Buffer.concat(this.#filled());
    for (let at = 0; at < buffer.length;) {
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
    if (this.#notRecorded === undefined) this.#free(0);
  }

  /** Frees its memory; nothing is recorded any more. */
  end(): void {
    this.#drop("off");
  }

  #filled(): Buffer[] {
    const last = this.#pieces.length - 1;
    return this.#pieces.map(({ slab, at }, index) =>
      slab.bytes.subarray(at, index === last ? this.#tape.at : at + pieceBytes),
    );
  }

  /** False: a limit was reached, and the recording is gone. */
  #append(bytes: Uint8Array, start: number, end: number): boolean {
    const tape = this.#tape;
    for (let from = start; from < end;) {
      if (tape.at === tape.limit && !this.#grow(tape)) return false;
      const count = Math.min(end - from, tape.limit - tape.at);
      tape.memory.set(bytes.subarray(from, from + count), tape.at);
      tape.at += count;
      from += count;
    }
    return true;
  }

  #grow(tape: Tape): boolean {
    const { maxMigrationBytes } = this.#shared.settings;
    const left = maxMigrationBytes - this.#pieces.length * pieceBytes;
    if (left <= 0) {
      this.#shared.dropped("call");
      this.#drop("call");
      return false;
    }
    const piece = this.#shared.take();
    if (!piece) {
      this.#drop("total");
      return false;
    }
    this.#pieces.push(piece);
    tape.memory = piece.slab.bytes;
    tape.at = piece.at;
    tape.limit = piece.at + Math.min(pieceBytes, left);
    return true;
  }

  #drop(why: NotRecorded): void {
    if (this.#notRecorded !== undefined) return;
    this.#free(-1);
    this.#notRecorded = why;
  }

  #free(at: 0 | -1): void {
    this.#shared.give(this.#pieces);
    this.#pieces = [];
    this.#tape.reset(at);
  }
}

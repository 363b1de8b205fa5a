import { copyBytes } from "#kernel/wire/byte-buffer.ts";
import type { HeaderField } from "#kernel/wire/header-field.ts";

/** Enough for what the requests of a client have in common; a connection holds on to no more. */
const mostBytes = 512;

/**
 * How the last header block of a connection began, since the requests of a client mostly begin alike: with the same
 * method, path and key. Holds only while no block changes the table that its bytes were decoded with.
 */
export class BlockStart {
  /** The first `count` hold. */
  readonly fields: HeaderField[] = [];
  readonly #ends: number[] = [];
  #count = 0;
  #bytes = Buffer.alloc(0);

  get count(): number {
    return this.#count;
  }

  /** Forgets all but the fields that this block begins with too, and returns how many bytes of it these are. */
  meet(bytes: Buffer, start: number, end: number): number {
    const known = this.#bytes;
    const most = Math.min(this.#length, end - start);
    let same = 0;
    while (same < most && known[same] === bytes[start + same]) same++;
    while (this.#length > same) this.#count -= 1;
    return this.#length;
  }

  /** The next field of the block, encoded as `bytes` from `start` to `end`. False when there is no room for more. */
  add(field: HeaderField, bytes: Buffer, start: number, end: number): boolean {
    const from = this.#length;
    const length = from + end - start;
    if (length > mostBytes) return false;
    if (length > this.#bytes.length) {
      const grown = Buffer.allocUnsafeSlow(Math.min(mostBytes, 2 * length));
      this.#bytes.copy(grown, 0, 0, from);
      this.#bytes = grown;
    }
    copyBytes(bytes, start, end, this.#bytes, from);
    this.fields[this.#count] = field;
    this.#ends[this.#count] = length;
    this.#count += 1;
    return true;
  }

  forget(): void {
    this.#count = 0;
  }

  get #length(): number {
    return this.#count === 0 ? 0 : (this.#ends[this.#count - 1] as number);
  }
}

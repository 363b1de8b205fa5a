/** For the beginning of a body: what a client that then sends nothing more costs. */
const firstBytes = 16_384;
/** Longer ones are gathered in memory of this size, which is used again, as far as it goes. */
const pooledBytes = 262_144;
/** Buffers kept for reuse: 4 MiB. */
const mostKept = 16;
const kept: Buffer[] = [];
const nothing = Buffer.alloc(0);

/** Gathers a body of known length that comes in several reads. Memory grows with what came, not with what was said. */
export class BodyBuffer {
  readonly #length: number;
  #bytes: Buffer = nothing;
  #filled = 0;

  constructor(length: number) {
    this.#length = length;
  }

  get missing(): number {
    return this.#length - this.#filled;
  }

  /** All of the body, once nothing is missing; valid until `release`. */
  get bytes(): Buffer {
    return this.#bytes.subarray(0, this.#filled);
  }

  /** Takes at most what is missing; returns how much. */
  add(chunk: Buffer, start: number): number {
    const count = Math.min(this.missing, chunk.length - start);
    if (this.#filled + count > this.#bytes.length) this.#grow(this.#filled + count);
    chunk.copy(this.#bytes, this.#filled, start, start + count);
    this.#filled += count;
    return count;
  }

  release(): void {
    keep(this.#bytes);
    this.#bytes = nothing;
    this.#filled = 0;
  }

  #grow(needed: number): void {
    const larger = room(needed, Math.min(this.#length, Math.max(needed, 2 * this.#bytes.length)));
    this.#bytes.copy(larger, 0, 0, this.#filled);
    keep(this.#bytes);
    this.#bytes = larger;
  }
}

/** For `needed` bytes; where no size of ours fits, `wanted`. */
function room(needed: number, wanted: number): Buffer {
  if (needed <= firstBytes) return Buffer.allocUnsafeSlow(firstBytes);
  if (needed <= pooledBytes) return kept.pop() ?? Buffer.allocUnsafeSlow(pooledBytes);
  return Buffer.allocUnsafeSlow(wanted);
}

function keep(bytes: Buffer): void {
  if (bytes.length === pooledBytes && kept.length < mostKept) kept.push(bytes);
}

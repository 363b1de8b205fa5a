/**
 * Size classes that are kept for reuse: a connection needs a buffer only between its first write and the flush. The
 * smallest is for a connection with one stream, the largest for two long prompts and more in one flush of a link.
 */
const classes = [512, 4_096, 16_384, 65_536, 262_144, 1_048_576] as const;
/** The smallest are made so many at a time, as parts of one piece, so that those of many connections share pages. */
const smallestAtOnce = 128;
const pools: Buffer[][] = classes.map(() => []);
/** What was sent last says how much to begin with up to here: many tokens, and no long prompt or late reader's backlog. */
const mostExpected = 16_384;
/** Bytes that each class may keep. */
const keptBytes = 4_194_304;

const none = Buffer.alloc(0);

/** Below this many bytes a loop is faster than a call into native code. */
const loopBelow = 32;

export function copyBytes(source: Uint8Array, start: number, end: number, target: Buffer, at: number): void {
  if (end - start < loopBelow) {
    for (let from = start, to = at; from < end; from++, to++) target[to] = source[from] as number;
  } else {
    Buffer.prototype.copy.call(source, target, at, start, end);
  }
}

/** Bytes appended at the end and taken from the front; memory comes from a pool and goes back to it when empty. */
export class ByteBuffer {
  /** Valid from `start` to `end`; replaced by `reserve`. */
  bytes: Buffer = none;
  start = 0;
  end = 0;
  /** How much was taken away last: the next is likely to be as long. */
  #expected = 0;

  get length(): number {
    return this.end - this.start;
  }

  /** Makes room for `count` more bytes behind `end`; the caller writes them and moves `end`. */
  reserve(count: number): void {
    if (this.bytes.length - this.end >= count) return;
    const { bytes, start, length } = this;
    if (start > 0 && bytes.length - length >= count && start >= length) {
      bytes.copy(bytes, 0, start, this.end);
    } else {
      const grown = take(Math.max(length + count, bytes.length * 2, this.#expected));
      bytes.copy(grown, 0, start, this.end);
      give(bytes);
      this.bytes = grown;
    }
    this.start = 0;
    this.end = length;
  }

  append(source: Uint8Array, start: number, end: number): void {
    this.reserve(end - start);
    copyBytes(source, start, end, this.bytes, this.end);
    this.end += end - start;
  }

  /** Forgets `count` bytes at the front. */
  skip(count: number): void {
    this.start += count;
    if (this.start === this.end) this.release();
  }

  release(): void {
    give(this.bytes);
    this.bytes = none;
    this.start = 0;
    this.end = 0;
  }

  /** The memory changes hands: the receiver returns it with `give` when nothing reads it any more. */
  detach(): Buffer {
    const { bytes } = this;
    this.#expected = Math.min(this.length, mostExpected);
    this.bytes = none;
    this.start = 0;
    this.end = 0;
    return bytes;
  }
}

function take(count: number): Buffer {
  const [smallest] = classes;
  const [small = []] = pools;
  if (count <= smallest && small.length === 0) {
    const piece = Buffer.allocUnsafeSlow(smallest * smallestAtOnce);
    for (let at = piece.length; at > 0; at -= smallest) small.push(piece.subarray(at - smallest, at));
  }
  for (let index = 0; index < classes.length; index++) {
    const size = classes[index] as number;
    if (count <= size) return pools[index]?.pop() ?? Buffer.allocUnsafeSlow(size);
  }
  return Buffer.allocUnsafeSlow(2 ** Math.ceil(Math.log2(count)));
}

/** Returns memory of a `ByteBuffer` to the pool. */
export function give(bytes: Buffer): void {
  for (let index = 0; index < classes.length; index++) {
    const pool = pools[index];
    if (bytes.length === classes[index] && pool && (pool.length + 1) * bytes.length <= keptBytes) pool.push(bytes);
  }
}

import type { ByteBuffer } from "#kernel/wire/byte-buffer.ts";
import { ErrorCode, WireError } from "#kernel/wire/wire-error.ts";

/** RFC 7541, appendix B: bits of each symbol's code, end-of-string last. The code is canonical, so lengths suffice. */
// oxfmt-ignore
const codeLengths: readonly number[] = [
  13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
  6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
  13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
  15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
  20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
  22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
  26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
  20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
  30,
];

const endOfString = 256;

/** Codes ascend by length and, within a length, by symbol. */
const codes: readonly number[] = assignCodes();

function assignCodes(): number[] {
  const assigned: number[] = Array.from({ length: codeLengths.length }, () => 0);
  const bySize = [...codeLengths.keys()].sort((a, b) => (codeLengths[a] ?? 0) - (codeLengths[b] ?? 0) || a - b);
  let code = 0;
  let length = 0;
  for (const symbol of bySize) {
    const own = codeLengths[symbol] ?? 0;
    code <<= own - length;
    length = own;
    assigned[symbol] = code++;
  }
  return assigned;
}

/**
 * A machine that takes four bits a step. `next[state * 16 + nibble]` holds the following state in its low 16 bits, and
 * above them the byte that was completed on the way plus one, or 0; -1 where the code for end-of-string was completed.
 */
const { next, mayEnd } = buildMachine();

function buildMachine(): { next: Int32Array; mayEnd: Uint8Array } {
  const children: [number, number][] = [[0, 0]];
  // Leaves are ~symbol.
  for (const [symbol, length] of codeLengths.entries()) {
    let node = 0;
    for (let bit = length - 1; bit >= 0; bit--) {
      const side = (((codes[symbol] ?? 0) >>> bit) & 1) as 0 | 1;
      const pair = children[node] ?? [0, 0];
      if (bit === 0) pair[side] = ~symbol;
      else if (pair[side] === 0) pair[side] = children.push([0, 0]) - 1;
      node = pair[side] ?? 0;
    }
  }
  const next = new Int32Array(children.length * 16);
  for (let state = 0; state < children.length; state++) {
    for (let nibble = 0; nibble < 16; nibble++) next[state * 16 + nibble] = walk(children, state, nibble);
  }
  // RFC 7541, 5.2: padding is the start of end-of-string (ones), shorter than a byte.
  const mayEnd = new Uint8Array(children.length);
  for (let node = 0, depth = 0; depth < 8; depth++) {
    mayEnd[node] = 1;
    node = children[node]?.[1] ?? 0;
  }
  return { next, mayEnd };
}

function walk(children: readonly [number, number][], state: number, nibble: number): number {
  let node = state;
  let emitted = 0;
  for (let bit = 3; bit >= 0; bit--) {
    node = children[node]?.[((nibble >>> bit) & 1) as 0 | 1] ?? 0;
    if (node >= 0) continue;
    if (~node === endOfString) return -1;
    emitted = ~node + 1;
    node = 0;
  }
  return (emitted << 16) | node;
}

/** Shared by all decoders: none keeps bytes in it between calls. Grows to the longest string that was let in. */
let scratch = Buffer.allocUnsafeSlow(4_096);

/** The string (one character a byte) that `bytes` from `start` to `end` encode. Throws COMPRESSION_ERROR. */
export function huffmanDecode(bytes: Buffer, start: number, end: number): string {
  // The shortest code has 5 bits.
  const most = Math.ceil(((end - start) * 8) / 5);
  if (scratch.length < most) scratch = Buffer.allocUnsafeSlow(most * 2);
  let length = 0;
  let state = 0;
  for (let at = start; at < end; at++) {
    const byte = bytes[at] as number;
    const high = next[state * 16 + (byte >>> 4)] as number;
    if (high < 0) throw new WireError(ErrorCode.COMPRESSION_ERROR, "end-of-string inside a Huffman string");
    if (high >= 0x10000) scratch[length++] = (high >>> 16) - 1;
    const low = next[(high & 0xffff) * 16 + (byte & 15)] as number;
    if (low < 0) throw new WireError(ErrorCode.COMPRESSION_ERROR, "end-of-string inside a Huffman string");
    if (low >= 0x10000) scratch[length++] = (low >>> 16) - 1;
    state = low & 0xffff;
  }
  if (mayEnd[state] !== 1) throw new WireError(ErrorCode.COMPRESSION_ERROR, "a Huffman string ends inside a code");
  return scratch.toString("latin1", 0, length);
}

/** Bytes that `huffmanEncode` appends for `text`. */
export function huffmanLength(text: string): number {
  let bits = 0;
  for (let at = 0; at < text.length; at++) bits += codeLengths[text.charCodeAt(at)] ?? 0;
  return Math.ceil(bits / 8);
}

/** `text` holds one byte a character. */
export function huffmanEncode(text: string, out: ByteBuffer): void {
  out.reserve(huffmanLength(text));
  let pending = 0;
  let bits = 0;
  function push(code: number, length: number): void {
    pending = (pending << length) | code;
    bits += length;
    while (bits >= 8) {
      bits -= 8;
      out.bytes[out.end++] = pending >>> bits;
    }
    pending &= (1 << bits) - 1;
  }
  for (let at = 0; at < text.length; at++) {
    const symbol = text.charCodeAt(at);
    const code = codes[symbol] ?? 0;
    const length = codeLengths[symbol] ?? 0;
    // At most 7 bits are pending, so 16 more fit in 32.
    if (length > 16) push(code >>> 16, length - 16);
    push(length > 16 ? code & 0xffff : code, Math.min(length, 16));
  }
  if (bits > 0) push((1 << (8 - bits)) - 1, 8 - bits);
}

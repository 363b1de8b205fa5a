/** What one token stands for. */
export interface TokenPiece {
  readonly bytes: Uint8Array;
  /** The bytes as text when they are whole UTF-8 by themselves. */
  readonly text: string | undefined;
}

const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
const nothing = new Uint8Array(0);

/** Joins token pieces to text and releases whole characters only; what is no UTF-8 becomes U+FFFD. */
export class Utf8Text {
  #pending: Uint8Array = nothing;

  push(piece: TokenPiece): string {
    if (this.#pending.length === 0 && piece.text !== undefined) return piece.text;
    const bytes = new Uint8Array(this.#pending.length + piece.bytes.length);
    bytes.set(this.#pending);
    bytes.set(piece.bytes, this.#pending.length);
    const whole = bytes.length - incompleteEnd(bytes);
    this.#pending = bytes.slice(whole);
    return whole === 0 ? "" : decoder.decode(bytes.subarray(0, whole));
  }

  /** The rest, once no more will come. */
  flush(): string {
    const text = this.#pending.length === 0 ? "" : decoder.decode(this.#pending);
    this.#pending = nothing;
    return text;
  }
}

/** How many bytes at the end begin a character that is not complete yet (0 to 3). */
function incompleteEnd(bytes: Uint8Array): number {
  for (let back = 1; back <= Math.min(3, bytes.length); back++) {
    const byte = bytes[bytes.length - back] ?? 0;
    if ((byte & 0xc0) === 0x80) continue;
    const length = byte >= 0xf0 && byte <= 0xf4 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc2 ? 2 : 1;
    return byte < 0x80 || byte > 0xf4 || length <= back ? 0 : back;
  }
  return 0;
}

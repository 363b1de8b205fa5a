/** RFC 9113, 6.9.1: the largest window. */
export const maxWindowBytes = 0x7fff_ffff;

/** What we allow the peer to send (RFC 9113, 5.2), given back in halves of the window, not frame by frame. */
export class ReceiveWindow {
  readonly #size: number;
  #left: number;
  #consumed = 0;

  constructor(size: number) {
    this.#size = size;
    this.#left = size;
  }

  /** False when the peer sent more than it was allowed. */
  receive(bytes: number): boolean {
    this.#left -= bytes;
    return this.#left >= 0;
  }

  /** Bytes that nobody holds any more. Returns the increment to send, or 0 while it is too small to bother. */
  consume(bytes: number): number {
    this.#consumed += bytes;
    if (this.#consumed * 2 < this.#size) return 0;
    const increment = this.#consumed;
    this.#consumed = 0;
    this.#left += increment;
    return increment;
  }
}

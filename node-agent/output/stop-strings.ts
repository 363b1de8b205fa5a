/** What one push released. `text` can no longer be part of a stop string; after `stopped` nothing more comes. */
export interface StopOutcome {
  readonly text: string;
  readonly stopped: boolean;
}

/**
 * Finds stop strings in a text that arrives in pieces, and holds back what may still become one. The stop string that
 * completes first wins (of several that complete together the longest), so the outcome does not depend on how the text
 * was cut into pieces. The stop string itself is never released.
 */
export class StopMatcher {
  readonly #stops: readonly string[];
  readonly #longest: number;
  #held = "";

  /** Empty strings are ignored: they would stop everything. */
  constructor(stops: readonly string[]) {
    this.#stops = stops.filter((stop) => stop.length > 0);
    this.#longest = this.#stops.reduce((longest, stop) => Math.max(longest, stop.length), 0);
  }

  push(piece: string): StopOutcome {
    if (this.#longest === 0) return { text: piece, stopped: false };
    const text = this.#held + piece;
    const start = this.#firstStop(text);
    if (start !== undefined) {
      this.#held = "";
      return { text: text.slice(0, start), stopped: true };
    }
    const keep = this.#heldLength(text);
    this.#held = text.slice(text.length - keep);
    return { text: text.slice(0, text.length - keep), stopped: false };
  }

  /** What is still held, once no more text will come. */
  flush(): string {
    const text = this.#held;
    this.#held = "";
    return text;
  }

  #firstStop(text: string): number | undefined {
    let best: { start: number; end: number } | undefined;
    for (const stop of this.#stops) {
      const start = text.indexOf(stop);
      if (start < 0) continue;
      const end = start + stop.length;
      if (!best || end < best.end || (end === best.end && start < best.start)) best = { start, end };
    }
    return best?.start;
  }

  /** Length of the longest end of `text` that begins a stop string. */
  #heldLength(text: string): number {
    for (let length = Math.min(this.#longest - 1, text.length); length > 0; length--) {
      const end = text.slice(text.length - length);
      if (this.#stops.some((stop) => stop.length > length && stop.startsWith(end))) return length;
    }
    return 0;
  }
}

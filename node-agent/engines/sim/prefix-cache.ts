import { PrefixChanges, type PrefixNews } from "../prefix-news.ts";

/** The prompt blocks that a simulated engine holds: the least recently used go first, of one prompt its last ones. */
export class PrefixCache {
  readonly #most: number;
  /** Oldest first. */
  readonly #blocks = new Set<number>();
  readonly #changes = new PrefixChanges();

  constructor(most: number) {
    this.#most = most;
  }

  /** How many blocks at the beginning of a prompt are held. */
  matched(blocks: Uint32Array): number {
    let count = 0;
    while (count < blocks.length && this.#blocks.has(blocks[count] ?? 0)) count++;
    return count;
  }

  /** A prompt was evaluated. */
  hold(blocks: Uint32Array): void {
    if (blocks.length > this.#most) this.#changes.noteCut();
    for (const hash of blocks.subarray(0, this.#most).toReversed()) {
      if (!this.#blocks.delete(hash)) this.#changes.add(hash);
      this.#blocks.add(hash);
    }
    for (const hash of this.#blocks) {
      if (this.#blocks.size <= this.#most) return;
      this.#blocks.delete(hash);
      this.#changes.remove(hash);
    }
  }

  take(): PrefixNews | undefined {
    return this.#changes.take();
  }
}

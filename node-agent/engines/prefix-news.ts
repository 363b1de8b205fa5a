/** Which prompt prefixes an engine's cache has come to hold and holds no longer, as hashes of kernel/prompt-blocks. */
export interface PrefixNews {
  readonly added: readonly number[];
  readonly removed: readonly number[];
  /** Prompts of which not all blocks were told, since there is a most. */
  readonly cut: number;
}

/** Whether and how an engine tells what its cache holds of prompts. */
export interface PrefixOptions {
  /** Bytes of canonical prompt that one block covers. */
  readonly blockBytes: number;
  /** Most hashes held at once, all sequences together. */
  readonly maxBlocks: number;
}

/** Collects what changed until it is told; what comes and goes again in between is no news. */
export class PrefixChanges {
  #added = new Set<number>();
  #removed = new Set<number>();
  #cut = 0;

  add(hash: number): void {
    if (!this.#removed.delete(hash)) this.#added.add(hash);
  }

  remove(hash: number): void {
    if (!this.#added.delete(hash)) this.#removed.add(hash);
  }

  noteCut(): void {
    this.#cut++;
  }

  /** Undefined when there is no news. */
  take(): PrefixNews | undefined {
    if (this.#added.size === 0 && this.#removed.size === 0 && this.#cut === 0) return undefined;
    const news = { added: [...this.#added], removed: [...this.#removed], cut: this.#cut };
    this.#added.clear();
    this.#removed.clear();
    this.#cut = 0;
    return news;
  }
}

/** The blocks of the prompts that an engine saw last, by their chained hashes: what is unused longest goes first. */
export class PrefixCache {
  /** In the order of their last use. */
  readonly #blocks = new Set<number>();
  #capacity = 0;
  #added = new Set<number>();
  #removed = new Set<number>();
  hits = 0;
  lookups = 0;

  resize(capacity: number): void {
    this.#capacity = capacity;
    for (const block of this.#blocks) this.#drop(block);
    this.hits = 0;
    this.lookups = 0;
  }

  /** How many of the leading blocks were there; all of them are afterwards. */
  use(blocks: Uint32Array): number {
    if (this.#capacity === 0) return 0;
    let cached = 0;
    while (cached < blocks.length && this.#blocks.has(blocks[cached] as number)) cached++;
    this.hits += cached;
    this.lookups += blocks.length;
    // Last block first: of one prompt, the end is dropped before the beginning.
    for (const block of blocks.toReversed()) {
      if (!this.#blocks.delete(block) && !this.#removed.delete(block)) this.#added.add(block);
      this.#blocks.add(block);
    }
    for (const block of this.#blocks) {
      if (this.#blocks.size <= this.#capacity) break;
      this.#drop(block);
    }
    return cached;
  }

  get all(): number[] {
    return [...this.#blocks];
  }

  /** What changed since the last time; undefined when nothing did. */
  takeChanges(): { readonly added: number[]; readonly removed: number[] } | undefined {
    if (this.#added.size === 0 && this.#removed.size === 0) return undefined;
    const changes = { added: [...this.#added], removed: [...this.#removed] };
    this.#added = new Set();
    this.#removed = new Set();
    return changes;
  }

  #drop(block: number): void {
    this.#blocks.delete(block);
    if (!this.#added.delete(block)) this.#removed.add(block);
  }
}

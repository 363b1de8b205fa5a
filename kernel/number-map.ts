const leastSlots = 16;

/**
 * A map from whole numbers (0 to 2^53 - 1) for entries that come and go all the time, such as calls in flight.
 *
 * V8's Map does not suit those. It makes a new table after every so many deletions, and the old table keeps a link to
 * the new one and to what it held. Once a full collection has moved such a table to the old generation, where it is
 * garbage that young collections take for alive, everything that is ever put into the map survives them, until the next
 * full collection, which moves the current table there. A router spent a fifth of its time on that. This table is written
 * in place: open addressing with linear probing, https://en.wikipedia.org/wiki/Linear_probing.
 */
export class NumberMap<T> {
  /** -1 where there is none. */
  #keys: number[] = Array.from({ length: leastSlots }, () => -1);
  #values: (T | undefined)[] = Array.from({ length: leastSlots }, () => undefined);
  #size = 0;

  get size(): number {
    return this.#size;
  }

  get(key: number): T | undefined {
    return this.#values[this.#find(key)];
  }

  has(key: number): boolean {
    return this.#keys[this.#find(key)] === key;
  }

  set(key: number, value: T): void {
    // Never more than half full.
    if (this.#size * 2 >= this.#keys.length) this.#grow();
    const slot = this.#find(key);
    if (this.#keys[slot] !== key) this.#size += 1;
    this.#keys[slot] = key;
    this.#values[slot] = value;
  }

  /** False when it was not there. */
  delete(key: number): boolean {
    const keys = this.#keys;
    const values = this.#values;
    const mask = keys.length - 1;
    let free = this.#find(key);
    if (keys[free] !== key) return false;
    this.#size -= 1;
    // What lies behind moves up, unless it would then be before its place: nothing else marks a slot that was used.
    for (let at = (free + 1) & mask; keys[at] !== -1; at = (at + 1) & mask) {
      const wanted = home(keys[at] as number, mask);
      if (((at - wanted) & mask) < ((at - free) & mask)) continue;
      keys[free] = keys[at] as number;
      values[free] = values[at];
      free = at;
    }
    keys[free] = -1;
    values[free] = undefined;
    return true;
  }

  clear(): void {
    this.#keys.fill(-1);
    this.#values.fill(undefined);
    this.#size = 0;
  }

  /** A copy, in no order: the map may change while it is walked. */
  values(): T[] {
    return this.#values.filter((value) => value !== undefined);
  }

  /** Where `key` is, or the free slot where it would be. */
  #find(key: number): number {
    const keys = this.#keys;
    const mask = keys.length - 1;
    let slot = home(key, mask);
    while (keys[slot] !== key && keys[slot] !== -1) slot = (slot + 1) & mask;
    return slot;
  }

  #grow(): void {
    const keys = this.#keys;
    const values = this.#values;
    const length = keys.length * 2;
    this.#keys = Array.from({ length }, () => -1);
    this.#values = Array.from({ length }, () => undefined);
    for (const [slot, key] of keys.entries()) {
      if (key === -1) continue;
      const to = this.#find(key);
      this.#keys[to] = key;
      this.#values[to] = values[slot];
    }
  }
}

/**
 * Numbers are given one after the other; in neighbouring slots they would be one long run, and a deletion looks at all that
 * lies behind it in its run. https://en.wikipedia.org/wiki/Hash_function#Fibonacci_hashing
 */
function home(key: number, mask: number): number {
  const mixed = Math.imul(key, 0x9e37_79b1);
  return (mixed ^ (mixed >>> 16)) & mask;
}

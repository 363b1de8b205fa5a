/** Events in order of time; a binary heap. */
export class EventQueue<E> {
  readonly #heap: { readonly atMs: number; readonly order: number; readonly event: E }[] = [];
  #order = 0;

  push(atMs: number, event: E): void {
    const heap = this.#heap;
    const entry = { atMs, order: this.#order++, event };
    let at = heap.push(entry) - 1;
    while (at > 0) {
      const above = (at - 1) >>> 1;
      const parent = heap[above];
      if (!parent || isBefore(parent, entry)) break;
      heap[at] = parent;
      at = above;
    }
    heap[at] = entry;
  }

  pop(): { readonly atMs: number; readonly event: E } | undefined {
    const heap = this.#heap;
    const [first] = heap;
    const last = heap.pop();
    if (!first || !last || heap.length === 0) return first;
    let at = 0;
    for (;;) {
      let below = 2 * at + 1;
      let child = heap[below];
      if (!child) break;
      const other = heap[below + 1];
      if (other && isBefore(other, child)) {
        below += 1;
        child = other;
      }
      if (isBefore(last, child)) break;
      heap[at] = child;
      at = below;
    }
    heap[at] = last;
    return first;
  }
}

type Timed = { readonly atMs: number; readonly order: number };

function isBefore(a: Timed, b: Timed): boolean {
  return a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order);
}

import { invariant } from "#kernel/invariant.ts";
import { seededRandom } from "#kernel/random.ts";

interface Node<T> {
  readonly value: T;
  /** No child weighs more than its parent: what keeps the tree shallow, O(log n) in expectation. */
  readonly weight: number;
  size: number;
  left: Node<T> | undefined;
  right: Node<T> | undefined;
}

/**
 * Values in order, each with its rank: a treap (Seidel and Aragon, "Randomized Search Trees"). Every operation is
 * O(log n). `compare` must be a total order in which no two different values are equal, and a value's place in it may
 * only change while the value is not in the set.
 */
export class OrderedSet<T> {
  readonly #compare: (a: T, b: T) => number;
  // Callers cannot choose weights, so a fixed seed is as good as any, and replays.
  readonly #random = seededRandom(1);
  #root: Node<T> | undefined;

  constructor(compare: (a: T, b: T) => number) {
    this.#compare = compare;
  }

  get size(): number {
    return sizeOf(this.#root);
  }

  first(): T | undefined {
    let node = this.#root;
    while (node?.left) node = node.left;
    return node?.value;
  }

  last(): T | undefined {
    let node = this.#root;
    while (node?.right) node = node.right;
    return node?.value;
  }

  /** How many values come before `value`, which need not be in the set. */
  rank(value: T): number {
    let before = 0;
    let node = this.#root;
    while (node) {
      if (this.#compare(node.value, value) < 0) {
        before += sizeOf(node.left) + 1;
        node = node.right;
      } else node = node.left;
    }
    return before;
  }

  /** `value` must not be in the set. */
  add(value: T): void {
    const weight = this.#random.next();
    this.#root = this.#insert(this.#root, { value, weight, size: 1, left: undefined, right: undefined });
  }

  /** `value` must be in the set. */
  delete(value: T): void {
    this.#root = this.#remove(this.#root, value);
  }

  #insert(node: Node<T> | undefined, added: Node<T>): Node<T> {
    if (!node) return added;
    if (added.weight > node.weight) {
      [added.left, added.right] = this.#split(node, added.value);
      return counted(added);
    }
    if (this.#compare(added.value, node.value) < 0) node.left = this.#insert(node.left, added);
    else node.right = this.#insert(node.right, added);
    return counted(node);
  }

  #remove(node: Node<T> | undefined, value: T): Node<T> | undefined {
    invariant(node, "an ordered set is asked to delete what it holds, at its place");
    const order = this.#compare(value, node.value);
    if (order === 0) return joined(node.left, node.right);
    if (order < 0) node.left = this.#remove(node.left, value);
    else node.right = this.#remove(node.right, value);
    return counted(node);
  }

  #split(node: Node<T> | undefined, value: T): [Node<T> | undefined, Node<T> | undefined] {
    if (!node) return [undefined, undefined];
    if (this.#compare(node.value, value) < 0) {
      const [low, high] = this.#split(node.right, value);
      node.right = low;
      return [counted(node), high];
    }
    const [low, high] = this.#split(node.left, value);
    node.left = high;
    return [low, counted(node)];
  }
}

function sizeOf<T>(node: Node<T> | undefined): number {
  return node ? node.size : 0;
}

function counted<T>(node: Node<T>): Node<T> {
  node.size = sizeOf(node.left) + sizeOf(node.right) + 1;
  return node;
}

/** Everything in `low` comes before everything in `high`. */
function joined<T>(low: Node<T> | undefined, high: Node<T> | undefined): Node<T> | undefined {
  if (!low) return high;
  if (!high) return low;
  if (low.weight > high.weight) {
    low.right = joined(low.right, high);
    return counted(low);
  }
  high.left = joined(low, high.left);
  return counted(high);
}

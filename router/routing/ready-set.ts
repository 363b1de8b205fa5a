import { invariant } from "#kernel/invariant.ts";
import { type Random, randomInt } from "#kernel/random.ts";
import type { Fill } from "./fill.ts";
import type { Replica } from "./replica.ts";

/** Levels from an empty batch to a full one. */
const levelsPerBatch = 64;
/** The last level takes all that are fuller: 16 batches of calls. */
const levelCount = 1_024;

/**
 * The replicas of one deployment that take calls and can do the same, findable by index and by how full they are.
 * Adding, removing, a changed load and taking any or the least loaded one cost the same whatever their number: each
 * replica knows its places, and whoever leaves one gives it to the last.
 */
export class ReadySet {
  readonly able: number;
  /** Of the router's own zone. */
  readonly near: boolean;
  readonly #items: Replica[] = [];
  readonly #levels: Replica[][] = [];
  #lowest = 0;
  #calls = 0;
  /** The calls that each replica was counted with, by index. */
  readonly #counted: number[] = [];

  constructor(able: number, near: boolean) {
    this.able = able;
    this.near = near;
  }

  get size(): number {
    return this.#items.length;
  }

  /** Calls on all of them. */
  get calls(): number {
    return this.#calls;
  }

  /** How full the emptiest is; only of a set that is not empty. */
  get lowestLevel(): number {
    return this.#lowest;
  }

  /** How many are as empty as that. */
  get lowestCount(): number {
    return this.#levels[this.#lowest]?.length ?? 0;
  }

  /** Whether one of them is not full, as far as their loads have been read. */
  get hasRoom(): boolean {
    return this.#items.length > 0 && this.#lowest <= levelsPerBatch;
  }

  at(index: number): Replica {
    const item = this.#items[index];
    invariant(item, `a set of ${this.#items.length} replicas was asked for number ${index}`);
    return item;
  }

  add(replica: Replica): void {
    replica.set = this;
    replica.index = this.#items.push(replica) - 1;
    this.#counted.push(replica.calls);
    this.#calls += replica.calls;
    this.#enter(replica, levelOf(replica));
  }

  remove(replica: Replica): void {
    this.#leave(replica);
    if (this.#items.length > 1) this.#findLowest();
    this.#calls -= this.#counted[replica.index] ?? 0;
    const last = this.#items.pop();
    const lastCounted = this.#counted.pop();
    if (last !== undefined && lastCounted !== undefined && last !== replica) {
      this.#items[replica.index] = last;
      this.#counted[replica.index] = lastCounted;
      last.index = replica.index;
    }
    replica.set = undefined;
  }

  /** The replica's load changed. */
  update(replica: Replica): void {
    this.#calls += replica.calls - (this.#counted[replica.index] ?? 0);
    this.#counted[replica.index] = replica.calls;
    const level = levelOf(replica);
    if (level === replica.level) return;
    this.#leave(replica);
    this.#enter(replica, level);
    this.#findLowest();
  }

  /** One of the least full. */
  emptiest(): Replica {
    const replica = this.#levels[this.#lowest]?.at(-1);
    invariant(replica, "the emptiest of no replicas was asked for");
    return replica;
  }

  /** One of the least full, by chance, so that routers that see the same loads do not all choose the same one. */
  leastLoaded(random: Random): Replica {
    const level = this.#levels[this.#lowest];
    const chosen = level?.[randomInt(random, level.length)];
    invariant(chosen, "the least loaded of no replicas was asked for");
    return chosen;
  }

  #enter(replica: Replica, level: number): void {
    const place = (this.#levels[level] ??= []);
    replica.level = level;
    replica.levelIndex = place.push(replica) - 1;
    if (level < this.#lowest || this.#items.length === 1) this.#lowest = level;
  }

  #leave(replica: Replica): void {
    const place = this.#levels[replica.level];
    const last = place?.pop();
    if (place !== undefined && last !== undefined && last !== replica) {
      place[replica.levelIndex] = last;
      last.levelIndex = replica.levelIndex;
    }
  }

  /** Upwards from where it was; one of them is not below that. */
  #findLowest(): void {
    while (this.#lowest < levelCount - 1 && (this.#levels[this.#lowest]?.length ?? 0) === 0) this.#lowest += 1;
  }
}

function levelOf({ calls, parallelSequences, fill }: Replica): number {
  const fullness = parallelSequences > 0 ? Math.floor((calls * levelsPerBatch) / parallelSequences) : calls;
  const [least, most] = levelsOf[fill];
  return Math.max(least, Math.min(most, fullness));
}

const levelsOf: { readonly [F in Fill]: readonly [number, number] } = {
  free: [0, levelsPerBatch - 1],
  "at-hand": [levelsPerBatch, levelsPerBatch],
  full: [levelsPerBatch + 1, levelCount - 1],
};

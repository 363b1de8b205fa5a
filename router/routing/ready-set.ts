import { invariant } from "#kernel/invariant.ts";
import { type Random, randomInt } from "#kernel/random.ts";
import { isSaturated } from "./candidate.ts";
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
  readonly #items: Replica[] = [];
  readonly #levels: Replica[][] = [];
  #lowest = 0;
  #calls = 0;
  /** The calls that each replica was counted with, by index. */
  readonly #counted: number[] = [];

  constructor(able: number) {
    this.able = able;
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
    while (this.#lowest < levelCount - 1 && (this.#levels[this.#lowest]?.length ?? 0) === 0) this.#lowest += 1;
  }
}

/** Saturated ones (see candidate.ts) have at least `levelsPerBatch`, the others less. */
function levelOf(replica: Replica): number {
  const { calls, parallelSequences } = replica;
  const fullness = parallelSequences > 0 ? Math.floor((calls * levelsPerBatch) / parallelSequences) : calls;
  return isSaturated(replica)
    ? Math.min(levelCount - 1, Math.max(levelsPerBatch, fullness))
    : Math.min(levelsPerBatch - 1, fullness);
}

import { invariant } from "#kernel/invariant.ts";
import { type Random, randomInt } from "#kernel/random.ts";
import type { Candidate } from "./candidate.ts";
import type { DeploymentPool } from "./deployment-pool.ts";
import type { Fleet } from "./fleet.ts";
import type { PolicyView } from "./policy.ts";
import type { PrefixIndex } from "./prefix-index.ts";
import type { ReadySet } from "./ready-set.ts";
import type { Replica } from "./replica.ts";

/** Holders of the prompt's prefixes that a policy gets to see. */
const mostMatches = 4;
/** Replicas looked at for the least loaded, when what is known of them turns out to be old. */
const mostTries = 8;
const noMatches: readonly Candidate[] = [];
/** Places of the ring that one pick looks at. */
const mostPlaces = 256;

export interface PoolViewParts {
  /** Of `pool`: at least one, none of them empty. */
  readonly sets: readonly ReadySet[];
  readonly pool: DeploymentPool;
  readonly fleet: Fleet;
  readonly index: PrefixIndex;
  /** Empty when the call has no prompt. */
  readonly promptBlocks: Uint32Array;
  /** Of the pick. */
  readonly nowMs: number;
}

/** What a policy sees of a deployment during one pick. */
export class PoolView implements PolicyView {
  readonly size: number;
  readonly #parts: PoolViewParts;
  /** Of the prompt, by replica; made when there is a prompt. */
  #blocks: Map<string, number> | undefined;
  #matches: readonly Candidate[] | undefined;

  constructor(parts: PoolViewParts) {
    this.#parts = parts;
    let size = 0;
    for (const set of parts.sets) size += set.size;
    this.size = size;
  }

  get meanCalls(): number {
    return this.#parts.sets.reduce((sum, set) => sum + set.calls, 0) / this.size;
  }

  at(index: number): Candidate {
    let rest = index;
    for (const set of this.#parts.sets) {
      if (rest < set.size) return this.#fresh(set.at(rest));
      rest -= set.size;
    }
    invariant(false, `a view of ${this.size} replicas was asked for number ${index}`);
  }

  near(random: Random): Candidate | undefined {
    let near = 0;
    for (const set of this.#parts.sets) if (set.near) near += set.size;
    if (near === 0 || near === this.size) return undefined;
    let rest = randomInt(random, near);
    for (const set of this.#parts.sets) {
      if (!set.near) continue;
      if (rest < set.size) return this.#fresh(set.at(rest));
      rest -= set.size;
    }
    invariant(false, `one of ${near} near replicas was not found`);
  }

  matches(): readonly Candidate[] {
    return (this.#matches ??= this.#findMatches());
  }

  matchedBlocks({ replicaId }: Candidate): number {
    const { index, promptBlocks } = this.#parts;
    if (promptBlocks.length === 0) return 0;
    this.#blocks ??= new Map();
    let blocks = this.#blocks.get(replicaId);
    if (blocks === undefined) this.#blocks.set(replicaId, (blocks = index.matched(replicaId, promptBlocks)));
    return blocks;
  }

  leastLoaded(random: Random): Candidate {
    let chosen = this.#emptiest(random);
    // One that turns out to hold more than was known moves away, and the next one is looked at.
    for (let tries = 0; tries < mostTries; tries++) {
      const { level } = chosen;
      this.#fresh(chosen);
      if (chosen.level <= level) break;
      chosen = this.#emptiest(random);
    }
    return this.#fresh(chosen);
  }

  *owners(key: number, limit: number): Generator<Candidate> {
    const seen = new Set<Replica>();
    let looks = 0;
    for (const replica of this.#parts.pool.ring.from(key)) {
      // Replicas of other abilities, or excluded, lie between; a ring full of them must not be walked to its end.
      if (seen.size === limit || looks++ === mostPlaces) return;
      if (seen.has(replica) || !replica.set || !this.#parts.sets.includes(replica.set)) continue;
      seen.add(replica);
      yield this.#fresh(replica);
    }
  }

  #findMatches(): readonly Candidate[] {
    const { index, promptBlocks } = this.#parts;
    if (promptBlocks.length === 0) return noMatches;
    const accept = (replicaId: string): boolean => this.#ready(replicaId) !== undefined;
    const found: Candidate[] = [];
    this.#blocks ??= new Map();
    for (const { replicaId, blocks } of index.longest(promptBlocks, accept, mostMatches)) {
      const replica = this.#ready(replicaId);
      if (!replica) continue;
      this.#blocks.set(replicaId, blocks);
      found.push(this.#fresh(replica));
    }
    return found;
  }

  /** Any of the emptiest, as likely as another. */
  #emptiest(random: Random): Replica {
    const { sets } = this.#parts;
    let lowest = Number.POSITIVE_INFINITY;
    let count = 0;
    for (const set of sets) {
      if (set.lowestLevel > lowest) continue;
      count = set.lowestCount + (set.lowestLevel === lowest ? count : 0);
      lowest = set.lowestLevel;
    }
    let rest = sets.length === 1 ? 0 : randomInt(random, count);
    for (const set of sets) {
      if (set.lowestLevel !== lowest) continue;
      if (rest < set.lowestCount) return set.leastLoaded(random);
      rest -= set.lowestCount;
    }
    invariant(false, "a view has at least one replica");
  }

  #fresh(replica: Replica): Replica {
    this.#parts.fleet.refresh(replica, this.#parts.nowMs);
    return replica;
  }

  /** The replica if it is one of this view. */
  #ready(replicaId: string): Replica | undefined {
    const replica = this.#parts.fleet.replica(replicaId);
    return replica?.set && this.#parts.sets.includes(replica.set) ? replica : undefined;
  }
}

import { invariant } from "#kernel/invariant.ts";
import { type Random, randomInt } from "#kernel/random.ts";
import type { Candidate } from "./candidate.ts";
import type { HashRing } from "./hash-ring.ts";
import type { PolicyView } from "./policy.ts";
import type { PrefixIndex } from "./prefix-index.ts";
import type { ReadySet } from "./ready-set.ts";
import type { Replica } from "./replica.ts";

/** Holders of the prompt's prefixes that a policy gets to see. */
const mostMatches = 4;
/** Replicas looked at for the least loaded, when what is known of them turns out to be old. */
const mostTries = 8;
/** Places of the ring that one pick looks at. */
const mostPlaces = 256;

export interface PoolViewParts {
  /** At least one, none of them empty. */
  readonly sets: readonly ReadySet[];
  readonly ring: () => HashRing<Replica>;
  readonly index: PrefixIndex;
  readonly replica: (replicaId: string) => Replica | undefined;
  /** Brings a replica's load up to date before a policy weighs it. */
  readonly refresh: (replica: Replica) => void;
  /** Empty when the call has no prompt. */
  readonly promptBlocks: Uint32Array;
}

/** What a policy sees of a deployment during one pick. */
export class PoolView implements PolicyView {
  readonly size: number;
  readonly #parts: PoolViewParts;
  readonly #blocks = new Map<string, number>();
  #matches: readonly Candidate[] | undefined;

  constructor(parts: PoolViewParts) {
    this.#parts = parts;
    this.size = parts.sets.reduce((sum, set) => sum + set.size, 0);
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

  matches(): readonly Candidate[] {
    if (this.#matches) return this.#matches;
    const { index, promptBlocks } = this.#parts;
    const found: Candidate[] = [];
    if (promptBlocks.length > 0) {
      const accept = (replicaId: string): boolean => this.#ready(replicaId) !== undefined;
      for (const { replicaId, blocks } of index.longest(promptBlocks, accept, mostMatches)) {
        const replica = this.#ready(replicaId);
        if (!replica) continue;
        this.#blocks.set(replicaId, blocks);
        found.push(this.#fresh(replica));
      }
    }
    this.#matches = found;
    return found;
  }

  matchedBlocks({ replicaId }: Candidate): number {
    const { index, promptBlocks } = this.#parts;
    if (promptBlocks.length === 0) return 0;
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
    for (const replica of this.#parts.ring().from(key)) {
      // Replicas of other abilities, or excluded, lie between; a ring full of them must not be walked to its end.
      if (seen.size === limit || looks++ === mostPlaces) return;
      if (seen.has(replica) || !replica.set || !this.#parts.sets.includes(replica.set)) continue;
      seen.add(replica);
      yield this.#fresh(replica);
    }
  }

  #emptiest(random: Random): Replica {
    const { sets } = this.#parts;
    const lowest = Math.min(...sets.map((set) => set.lowestLevel));
    const emptiest = sets.filter((set) => set.lowestLevel === lowest);
    const set = emptiest[randomInt(random, emptiest.length)];
    invariant(set, "a view has at least one set");
    return set.leastLoaded(random);
  }

  #fresh(replica: Replica): Replica {
    this.#parts.refresh(replica);
    return replica;
  }

  /** The replica if it is one of this view. */
  #ready(replicaId: string): Replica | undefined {
    const replica = this.#parts.replica(replicaId);
    return replica?.set && this.#parts.sets.includes(replica.set) ? replica : undefined;
  }
}

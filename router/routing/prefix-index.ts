import type { PrefixDigest } from "#gen/helixmesh/link/v1/link_pb.ts";
import { type Random, randomInt } from "#kernel/random.ts";
import type { RoutingMetrics } from "./routing-metrics.ts";

/** Blocks that are remembered of this router's own picks for a replica that sends no digests; the oldest go first. */
const guessedBlocksPerReplica = 2_048;

export interface PrefixIndexOptions {
  /** Pairs of prefix and replica; about 100 bytes each. */
  readonly maxEntries: number;
  readonly random: Random;
  readonly metrics: RoutingMetrics;
}

export interface PrefixMatch {
  readonly replicaId: string;
  /** Whole blocks from the prompt's beginning. */
  readonly blocks: number;
}

type Knowledge =
  /** No digest has come: what is known are this router's own picks. */
  | { readonly kind: "guessing" }
  /** As of this digest. */
  | { readonly kind: "told"; readonly sequence: bigint }
  /** A digest is missing, nothing is known, and a snapshot was asked for. */
  | { readonly kind: "lost" };

interface Holder {
  readonly nodeId: string;
  readonly replicaId: string;
  knowledge: Knowledge;
  /** Hash → where this holder stands among the holders of it. In order of arrival. */
  readonly places: Map<number, number>;
  /** Among all holders. */
  index: number;
}

/**
 * Which replica holds which prompt prefixes, as agents tell (link.v1 PrefixDigest) or, where they do not, as this
 * router's own picks suggest. One hash stands for a whole prefix, so the longest match of a prompt is found from its
 * end, in a number of look-ups that grows with the logarithm of its blocks and not with the number of nodes.
 */
export class PrefixIndex {
  readonly #options: PrefixIndexOptions;
  /** The most prefixes have one holder, which then stands alone. */
  readonly #holders = new Map<number, Holder | Holder[]>();
  readonly #byNode = new Map<string, Map<string, Holder>>();
  readonly #byReplica = new Map<string, Holder>();
  readonly #all: Holder[] = [];
  #entries = 0;

  constructor(options: PrefixIndexOptions) {
    this.#options = options;
  }

  /** Pairs of prefix and replica. */
  get entries(): number {
    return this.#entries;
  }

  /** "gap": a digest before this one is missing; ask the agent for a snapshot of this replica. Said once per gap. */
  apply(nodeId: string, digest: PrefixDigest): "ok" | "gap" {
    const holder = this.#holder(nodeId, digest.replicaId);
    const { knowledge } = holder;
    const expected = knowledge.kind === "told" ? knowledge.sequence + 1n : 1n;
    if (!digest.snapshot && (knowledge.kind === "lost" || digest.sequence !== expected)) {
      if (knowledge.kind === "lost") return "ok";
      this.#clear(holder);
      holder.knowledge = { kind: "lost" };
      this.#options.metrics.prefixGap();
      this.#options.metrics.prefixEntries(this.#entries);
      return "gap";
    }
    // What was guessed until now gives way to what is true.
    if (digest.snapshot || knowledge.kind === "guessing") this.#clear(holder);
    holder.knowledge = { kind: "told", sequence: digest.sequence };
    for (const hash of digest.removed) this.#remove(holder, hash | 0);
    for (const hash of digest.added) this.#add(holder, hash | 0);
    this.#options.metrics.prefixEntries(this.#entries);
    return "ok";
  }

  /** The node's link is down or the node is gone: its engines' caches are unknown. */
  forget(nodeId: string): void {
    const holders = this.#byNode.get(nodeId);
    if (!holders) return;
    this.#byNode.delete(nodeId);
    for (const holder of holders.values()) {
      this.#clear(holder);
      this.#byReplica.delete(holder.replicaId);
      const last = this.#all.pop();
      if (last && last !== holder) {
        this.#all[holder.index] = last;
        last.index = holder.index;
      }
    }
    this.#options.metrics.prefixEntries(this.#entries);
  }

  /** Remembers that a prompt went to a replica. True where that is a guess about its cache: no digests come from it. */
  picked(nodeId: string, replicaId: string, hashes: Uint32Array): boolean {
    const holder = this.#holder(nodeId, replicaId);
    if (holder.knowledge.kind !== "guessing") return false;
    // From the end, so that the shortest prefix, which most prompts share, is forgotten last.
    const most = Math.min(hashes.length, guessedBlocksPerReplica);
    for (let i = most - 1; i >= 0; i--) {
      const hash = hashAt(hashes, i);
      this.#remove(holder, hash);
      this.#add(holder, hash);
    }
    while (holder.places.size > guessedBlocksPerReplica) this.#removeOldest(holder);
    this.#options.metrics.prefixEntries(this.#entries);
    return true;
  }

  /** How many whole blocks of the prompt the replica holds. */
  matched(replicaId: string, hashes: Uint32Array): number {
    const places = this.#byReplica.get(replicaId)?.places;
    if (!places || places.size === 0) return 0;
    return longestHit(hashes, (hash) => places.has(hash));
  }

  /**
   * At most `limit` of the replicas that `accept` takes and that hold the longest prefixes of the prompt, longest
   * first; by chance where more hold the same.
   */
  longest(hashes: Uint32Array, accept: (replicaId: string) => boolean, limit: number): readonly PrefixMatch[] {
    const found = new Map<string, number>();
    let blocks = longestHit(hashes, (hash) => this.#sample(hash, accept, limit, undefined));
    for (let step = 1; blocks > 0 && found.size < limit; step *= 2) {
      const before = new Map<string, number>();
      this.#sample(hashAt(hashes, blocks - 1), (id) => !found.has(id) && accept(id), limit - found.size, before);
      // One found at a shorter prefix may hold more than that, only less than those before it.
      for (const replicaId of before.keys())
        found.set(replicaId, step === 1 ? blocks : this.matched(replicaId, hashes));
      blocks -= step;
    }
    return [...found].map(([replicaId, blocks]) => ({ replicaId, blocks })).sort((a, b) => b.blocks - a.blocks);
  }

  /** Whether anyone accepted holds the hash; puts up to `limit` of them into `into`. Looks at a bounded number. */
  #sample(
    hash: number,
    accept: (replicaId: string) => boolean,
    limit: number,
    into: Map<string, number> | undefined,
  ): boolean {
    const holders = this.#holders.get(hash);
    if (holders === undefined) return false;
    if (!Array.isArray(holders)) {
      if (!accept(holders.replicaId)) return false;
      into?.set(holders.replicaId, 0);
      return true;
    }
    const looks = Math.min(holders.length, 8 * limit);
    const first = randomInt(this.#options.random, holders.length);
    let any = false;
    for (let i = 0; i < looks; i++) {
      const holder = holders[(first + i) % holders.length];
      if (!holder || !accept(holder.replicaId)) continue;
      any = true;
      if (!into) return true;
      into.set(holder.replicaId, 0);
      if (into.size >= limit) return true;
    }
    return any;
  }

  #holder(nodeId: string, replicaId: string): Holder {
    let onNode = this.#byNode.get(nodeId);
    if (!onNode) this.#byNode.set(nodeId, (onNode = new Map()));
    let holder = onNode.get(replicaId);
    if (!holder) {
      holder = { nodeId, replicaId, knowledge: { kind: "guessing" }, places: new Map(), index: this.#all.length };
      onNode.set(replicaId, holder);
      this.#byReplica.set(replicaId, holder);
      this.#all.push(holder);
    }
    return holder;
  }

  #add(holder: Holder, hash: number): void {
    if (holder.places.has(hash)) return;
    if (this.#entries >= this.#options.maxEntries) this.#evict();
    const holders = this.#holders.get(hash);
    if (holders === undefined) {
      this.#holders.set(hash, holder);
      holder.places.set(hash, 0);
    } else if (Array.isArray(holders)) {
      holder.places.set(hash, holders.push(holder) - 1);
    } else {
      this.#holders.set(hash, [holders, holder]);
      holder.places.set(hash, 1);
    }
    this.#entries += 1;
  }

  #remove(holder: Holder, hash: number): void {
    const place = holder.places.get(hash);
    if (place === undefined) return;
    holder.places.delete(hash);
    this.#entries -= 1;
    const holders = this.#holders.get(hash);
    if (!Array.isArray(holders)) {
      this.#holders.delete(hash);
      return;
    }
    const last = holders.pop();
    if (last && last !== holder) {
      holders[place] = last;
      last.places.set(hash, place);
    }
    if (holders.length === 0) this.#holders.delete(hash);
  }

  /** The oldest prefix of the larger of two holders by chance, so that those with the most give the most. */
  #evict(): void {
    const { random, metrics } = this.#options;
    const a = this.#all[randomInt(random, this.#all.length)];
    const b = this.#all[randomInt(random, this.#all.length)];
    const larger = a && b && a.places.size < b.places.size ? b : a;
    const victim = larger?.places.size ? larger : this.#all.find(({ places }) => places.size > 0);
    if (victim) this.#removeOldest(victim);
    metrics.prefixEvicted();
  }

  #removeOldest(holder: Holder): void {
    const { value, done } = holder.places.keys().next();
    if (!done) this.#remove(holder, value);
  }

  #clear(holder: Holder): void {
    for (const hash of holder.places.keys()) this.#remove(holder, hash);
  }
}

/** As a signed number, as all keys here are: V8 keeps those of 32 bits in place, and allocates for larger ones. */
function hashAt(hashes: Uint32Array, index: number): number {
  return (hashes[index] ?? 0) | 0;
}

/**
 * How many blocks the longest prefix has that `holds`. Looks from the end in growing strides, since a conversation's
 * next prompt is nearly held whole, then between the last miss and the hit: whoever holds a prefix holds the shorter
 * ones too, as a rule.
 */
function longestHit(hashes: Uint32Array, holds: (hash: number) => boolean): number {
  let miss = hashes.length + 1;
  let hit = 0;
  for (let blocks = hashes.length, stride = 1; blocks > 0; blocks = blocks === 1 ? 0 : Math.max(1, blocks - stride)) {
    if (holds(hashAt(hashes, blocks - 1))) {
      hit = blocks;
      break;
    }
    miss = blocks;
    stride *= 2;
  }
  if (hit === 0) return 0;
  while (miss - hit > 1) {
    const middle = (hit + miss) >>> 1;
    if (holds(hashAt(hashes, middle - 1))) hit = middle;
    else miss = middle;
  }
  return hit;
}

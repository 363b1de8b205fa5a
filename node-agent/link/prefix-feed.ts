import type { PrefixChange, PrefixSource } from "./prefix-source.ts";

/** A PrefixDigest before it is encoded. */
export interface Digest {
  readonly replicaId: string;
  readonly sequence: number;
  readonly snapshot: boolean;
  readonly added: ArrayLike<number>;
  readonly removed: ArrayLike<number>;
}

/** More changes than this wait for nobody: a snapshot says the same. */
const mostChanges = 16_384;

type Pending = "snapshot" | { readonly added: Set<number>; readonly removed: Set<number> };

/**
 * What one router has not been told of the prefixes that replicas hold: first a snapshot of each, then what changed since
 * the last digest. While nothing can be sent, changes join.
 */
export class PrefixFeed {
  readonly #source: PrefixSource;
  readonly #pending = new Map<string, Pending>();
  /** Of the last digest sent, by replica. */
  readonly #sequences = new Map<string, number>();

  constructor(source: PrefixSource) {
    this.#source = source;
    for (const replicaId of source.replicaIds()) this.#pending.set(replicaId, "snapshot");
  }

  get isEmpty(): boolean {
    return this.#pending.size === 0;
  }

  change(replicaId: string, change: PrefixChange): void {
    const before = this.#pending.get(replicaId);
    if (before === "snapshot") return;
    if (change === "snapshot" || !this.#sequences.has(replicaId)) return this.resend(replicaId);
    const pending = before ?? { added: new Set(), removed: new Set() };
    for (const hash of change.added) {
      pending.removed.delete(hash);
      pending.added.add(hash);
    }
    for (const hash of change.removed) {
      pending.added.delete(hash);
      pending.removed.add(hash);
    }
    const tooMany = pending.added.size + pending.removed.size > mostChanges;
    this.#pending.set(replicaId, tooMany ? "snapshot" : pending);
  }

  /** The router lost track. */
  resend(replicaId: string): void {
    this.#pending.set(replicaId, "snapshot");
  }

  take(): Digest[] {
    const digests: Digest[] = [];
    for (const [replicaId, pending] of this.#pending) {
      const held = pending === "snapshot" ? this.#source.held(replicaId) : undefined;
      // Whoever asks for a replica that never told anything is not answered.
      if (pending === "snapshot" && held === undefined && !this.#sequences.has(replicaId)) continue;
      const sequence = (this.#sequences.get(replicaId) ?? 0) + 1;
      this.#sequences.set(replicaId, sequence);
      digests.push(
        pending === "snapshot"
          ? { replicaId, sequence, snapshot: true, added: held ?? [], removed: [] }
          : { replicaId, sequence, snapshot: false, added: [...pending.added], removed: [...pending.removed] },
      );
    }
    this.#pending.clear();
    return digests;
  }
}

/** What the engines of this node hold of prompts (PrefixDigest in link.proto). Hashes are those of kernel/prompt-blocks. */
export interface PrefixSource {
  /** Bytes of canonical prompt that one block covers; 0 when no engine here can tell what it holds. */
  readonly blockBytes: number;
  /** Replicas whose engines tell. */
  replicaIds(): Iterable<string>;
  /** All that the replica holds now, in any order; undefined when it is gone or does not tell. Bounded by the source. */
  held(replicaId: string): Uint32Array | undefined;
}

/** News for `LinkServer.prefixesChanged`. "snapshot": too much changed to name, as when an engine has started anew. */
export type PrefixChange =
  | "snapshot"
  | {
      /** Held now and not before. */
      readonly added: readonly number[];
      /** Held before and no longer. */
      readonly removed: readonly number[];
    };

/** Of a node whose engines tell nothing. */
export const noPrefixes: PrefixSource = { blockBytes: 0, replicaIds: () => [], held: () => undefined };

import type { Random } from "#kernel/random.ts";
import type { Candidate } from "./candidate.ts";

/** What a policy may use besides the candidates; given by the caller so that a policy stays a pure function. */
export interface PolicyContext {
  readonly random: Random;
  /** Counts the picks of this router, from 0. */
  readonly turn: number;
}

/** Chooses one of at least one candidates. Pure: same candidates, turn and chance, same choice. */
export type Policy = (candidates: readonly Candidate[], context: PolicyContext) => Candidate;

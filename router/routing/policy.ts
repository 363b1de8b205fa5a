import type { Random } from "#kernel/random.ts";
import type { Candidate } from "./candidate.ts";
import type { Rates } from "./predict.ts";

/** The replicas that can take the call, none of which costs more to reach the more of them there are. */
export interface PolicyView {
  /** At least 1. */
  readonly size: number;
  /** `index` from 0 to size - 1, in no meaningful order. */
  at(index: number): Candidate;
  /** One of the router's own zone, by chance; undefined where none is, or all are. */
  near(random: Random): Candidate | undefined;
  /** Some of those that hold the longest prefixes of the prompt, longest first; empty when none is known to hold any. */
  matches(): readonly Candidate[];
  /** Whole prompt blocks that the replica holds from the prompt's beginning. */
  matchedBlocks(candidate: Candidate): number;
  /** One of those whose batch is least full, by chance. */
  leastLoaded(random: Random): Candidate;
  /** Clockwise from `key` on the ring, each once, at most `limit`; the same on every router that sees the same replicas. */
  owners(key: number, limit: number): Iterable<Candidate>;
  /** Mean of `calls`. */
  readonly meanCalls: number;
}

/** What a policy may use besides the replicas; given by the caller so that a policy stays a pure function. */
export interface PolicyContext {
  readonly random: Random;
  /** Counts the picks of this router in the deployment, from 0. */
  readonly turn: number;
  /** Of the session, else of the beginning of the prompt; undefined when there is neither. */
  readonly affinityKey: number | undefined;
  /** Tokens of the prompt, estimated from its bytes. */
  readonly promptTokens: number;
  /** Tokens of one prompt block, estimated. */
  readonly blockTokens: number;
  readonly rates: Rates;
}

/** Why this one; a bounded set, since it labels a metric. */
export type Why =
  | "predicted"
  | "prefix"
  | "session"
  | "ring"
  | "ring-full"
  | "least-loaded"
  | "two-choices"
  | "turn"
  | "chance"
  | "all-saturated";

export interface Choice {
  readonly candidate: Candidate;
  readonly why: Why;
  /** What was weighed, the chosen one included. */
  readonly considered: readonly Candidate[];
}

/** Chooses one replica. Pure: same view, turn and chance, same choice. */
export type Policy = (view: PolicyView, context: PolicyContext) => Choice;

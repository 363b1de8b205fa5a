import type { Candidate } from "./candidate.ts";

/** What a deployment's replicas have shown so far; see `rates.ts`, which measures it. */
export interface Rates {
  /** Mean time a call holds its place in a batch. */
  readonly callMs: number;
  /** What one more sequence adds to a decode step. */
  readonly stepSlopeUs: number;
  /** For a replica that has not measured its own. */
  readonly prefillTokensPerS: number;
  /** Observed over predicted times to first token, over all replicas: networks, and what the prediction leaves out. */
  readonly bias: number;
}

/** Milliseconds from sending a call to its first token, by cause, and what it costs the calls beside it. */
export interface Prediction {
  /** Until a place in the batch is free. */
  readonly waitMs: number;
  /** Prompts that are evaluated before this one. */
  readonly backlogMs: number;
  /** What the replica does not hold of this prompt. */
  readonly prefillMs: number;
  /** The step that gives the first token. */
  readonly stepMs: number;
  /** What the other sequences of the batch lose to this prompt and to a larger batch, weighed. */
  readonly shareMs: number;
  /** Factor on wait, backlog, prefill and step, learnt from observed times: the deployment's and the replica's own. */
  readonly correction: number;
  /** Of the first token: (wait + backlog + prefill + step) × correction. */
  readonly ttftMs: number;
  /** What is compared: ttftMs + shareMs + the candidate's awayMs. */
  readonly costMs: number;
}

/**
 * What a millisecond lost by a call that already answers weighs against one more to this call's first token. Without it
 * a loaded mesh evaluates prompts anew on whichever node is free: 8 simulated nodes at their limit, three seeds, gave a
 * goodput of 84 to 99 % with 0 and 98 to 100 % with 0.1, 0.5 or 1, which differ by little more than the seeds do.
 */
const neighbourWeight = 0.1;

/** Pure: what the agent reported, what this router has sent since, and the deployment's rates. */
export function predict(candidate: Candidate, uncachedTokens: number, rates: Rates): Prediction {
  const { calls, parallelSequences, running } = candidate;
  const tokensPerMs = (candidate.prefillTokensPerS || rates.prefillTokensPerS) / 1_000;
  const ahead = parallelSequences > 0 ? calls - parallelSequences + 1 : candidate.queued;
  const waitMs = ahead > 0 ? (ahead * rates.callMs) / Math.max(1, parallelSequences, running) : 0;
  const backlogMs = candidate.backlogTokens / tokensPerMs;
  const prefillMs = uncachedTokens / tokensPerMs;
  const slopeMs = rates.stepSlopeUs / 1_000;
  const stepMs = candidate.stepTimeUs / 1_000 + slopeMs;
  const beside = parallelSequences > 0 ? Math.min(calls, parallelSequences) : calls;
  const shareMs = beside * neighbourWeight * (prefillMs + slopeMs);
  const correction = rates.bias * candidate.correction;
  const ttftMs = (waitMs + backlogMs + prefillMs + stepMs) * correction;
  return {
    waitMs,
    backlogMs,
    prefillMs,
    stepMs,
    shareMs,
    correction,
    ttftMs,
    costMs: ttftMs + shareMs + candidate.awayMs,
  };
}

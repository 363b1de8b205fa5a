import type { Fill } from "./fill.ts";

/** One replica that could take the call now, with what a policy may weigh. Nothing in it changes during a pick. */
export interface Candidate {
  readonly replicaId: string;
  readonly nodeId: string;
  readonly deployment: string;
  /** Sequences its engine decodes at once; 0 when it does not say. */
  readonly parallelSequences: number;
  /** Sequences in its decode batch, over all routers, as last reported. */
  readonly running: number;
  /** Calls waiting inside the agent, over all routers, as last reported. */
  readonly queued: number;
  /** Calls on it now: this router's own, known without delay, and the others' as last reported. */
  readonly calls: number;
  /** Prompt tokens that its engine evaluates before those of a call sent now. */
  readonly backlogTokens: number;
  /** Duration of a decode step; 0 until measured. */
  readonly stepTimeUs: number;
  /** Prompt tokens per second; 0 until measured. */
  readonly prefillTokensPerS: number;
  /** Observed over predicted times to first token of late; 1 when it is as predicted. */
  readonly correction: number;
  readonly fill: Fill;
  /** What a call costs for going to another zone, milliseconds; 0 in the router's own, and where zones are unknown. */
  readonly awayMs: number;
}

/** Whether a call sent now would wait for another one to end. */
export function isSaturated({ fill }: Candidate): boolean {
  return fill !== "free";
}

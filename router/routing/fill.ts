import type { ReplicaLoad } from "#gen/helixmesh/type/v1/type_pb.ts";

/**
 * How full a replica is, for routing and admission alike. `free`: a call sent now begins at once. `at-hand`: it would
 * wait for another one to end, and may be sent, so that the engine has it at hand then. `full`: it would only wait there,
 * and waits better in the router.
 */
export type Fill = "free" | "at-hand" | "full";

/** The same of a deployment. `free`: some replica takes one more call. `busy`: all ready ones are full. `cold`: none is ready. */
export type Room = "free" | "busy" | "cold";

/** Calls that may wait inside an agent, so that its engine has the next one at hand when one ends. */
const atHand = 1;
/** Prompts that a replica evaluates first: with more than this before it, another call does not get ahead by going there. */
const longestBacklogMs = 2_000;

/** What is known of a replica: measured from its agent's reports and this router's calls, and learnt from refusals. */
export interface Filling {
  /** On it now. */
  readonly calls: number;
  /** Sequences its engine decodes at once; 0 when it does not say. */
  readonly parallelSequences: number;
  /** By its last report; see `isHeldUp`. */
  readonly heldUp: boolean;
  /** See learned-limit.ts. */
  readonly mostCalls: number;
}

/** The one rule of who is full. Nothing in it is configured. */
export function fillOf({ calls, parallelSequences, heldUp, mostCalls }: Filling): Fill {
  // Whatever is reported, an idle replica has to be asked.
  if (calls === 0) return "free";
  if (heldUp || calls >= mostCalls) return "full";
  if (parallelSequences === 0 || calls < parallelSequences) return "free";
  return calls < parallelSequences + atHand ? "at-hand" : "full";
}

/** The engine does not begin what it has: its batch, its KV cache or its prefill is full. */
export function isHeldUp(load: ReplicaLoad): boolean {
  if (load.queued > 0) return true;
  if (load.kvTotalTokens > 0n && load.kvUsedTokens + load.prefillBacklogTokens >= load.kvTotalTokens) return true;
  const backlogMs = (Number(load.prefillBacklogTokens) * 1_000) / load.prefillTokensPerS;
  return load.prefillTokensPerS > 0 && backlogMs > longestBacklogMs;
}

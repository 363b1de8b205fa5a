import type { Metrics } from "#kernel/metrics.ts";
import type { Why } from "./policy.ts";

/** What routing counts. Labels are bounded: policies and reasons are enums. */
export interface RoutingMetrics {
  picked(policy: string, why: Why): void;
  /** Blocks of a prompt, and how many of them the chosen replica is known to hold. */
  prompt(blocks: number, matchedBlocks: number): void;
  /** Observed over predicted time to first token. */
  predicted(ratio: number): void;
  /** A call went to a model that was not asked for. */
  fellBack(): void;
  prefixEntries(count: number): void;
  prefixEvicted(): void;
  prefixGap(): void;
  /** A pick relied on this router's own picks, since no digest came from the replica. */
  prefixGuessed(): void;
}

const ratioBuckets = [0.125, 0.25, 0.5, 0.7, 0.85, 1, 1.2, 1.5, 2, 4, 8];

export function routingMetrics(metrics: Metrics): RoutingMetrics {
  const picks = metrics.counter("routing_picks_total", "Replicas picked, by why.", ["policy", "why"]);
  const blocks = metrics.counter("routing_prefix_blocks_total", "Prompt blocks of picked calls.", ["kind"]);
  const ratio = metrics.histogram(
    "routing_ttft_ratio",
    "Observed over predicted time to first token, from dispatch.",
    [],
    ratioBuckets,
  );
  const fallbacks = metrics.counter("routing_fallbacks_total", "Calls sent to a fallback model.");
  const entries = metrics.gauge("routing_prefix_entries", "Pairs of prefix and replica in the index.");
  const evictions = metrics.counter("routing_prefix_evictions_total", "Pairs dropped because the index is full.");
  const gaps = metrics.counter("routing_prefix_gaps_total", "Prefix digests that went missing.");
  const guesses = metrics.counter("routing_prefix_guesses_total", "Picks for replicas that send no prefix digests.");
  return {
    picked: (policy, why) => picks.inc({ policy, why }),
    prompt(all, matched) {
      blocks.inc({ kind: "asked" }, all);
      if (matched > 0) blocks.inc({ kind: "matched" }, matched);
    },
    predicted: (value) => ratio.observe(value),
    fellBack: () => fallbacks.inc(),
    prefixEntries: (count) => entries.set(count),
    prefixEvicted: () => evictions.inc(),
    prefixGap: () => gaps.inc(),
    prefixGuessed: () => guesses.inc(),
  };
}

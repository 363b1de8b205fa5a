import type { Metrics } from "#kernel/metrics.ts";

/** What the links count; nodes are not a label, since there may be thousands. */
export interface LinkMetrics {
  up(): void;
  /** A link that was up is not any more: the agent went, or we closed it. */
  down(why: "lost" | "closed"): void;
  /** An attempt to open one failed. */
  failed(): void;
  /** A step batch with this many deltas arrived. */
  step(deltas: number): void;
}

export function linkMetrics(metrics: Metrics): LinkMetrics {
  const up = metrics.gauge("router_links_up", "Links to agents that are up.");
  const ends = metrics.counter("router_link_ends_total", "Links that ended, and attempts that failed.", ["why"]);
  const batches = metrics.counter("router_link_step_batches_total", "Step batches received.");
  const deltas = metrics.counter("router_link_deltas_total", "Call deltas received in step batches.");
  up.set(0);
  return {
    up: () => up.inc(),
    down(why) {
      up.dec();
      ends.inc({ why });
    },
    failed: () => ends.inc({ why: "not_opened" }),
    step(count) {
      batches.inc();
      if (count > 0) deltas.inc(count);
    },
  };
}

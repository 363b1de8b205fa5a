import type { Metrics } from "#kernel/metrics.ts";

/**
 * How a call came to the end of its wait: its `turn`, `left` (the client went, or its own time was over), `full` (no
 * place), `displaced` (its place went to another), `late` (refused at the door: its turn would come after its deadline),
 * `too-late` (gave up in the queue for the same reason), `waited` (the longest wait was over).
 */
export type QueueOutcome = "turn" | "left" | "full" | "displaced" | "late" | "too-late" | "waited";

/** What queues count; labels are deployments and outcomes. */
export interface QueueMetrics {
  ended(deployment: string, outcome: QueueOutcome, waitedMs: number): void;
  waiting(deployment: string, entries: number, bytes: number): void;
  promoted(deployment: string, entries: number): void;
  /** The deployment is gone. */
  forget(deployment: string): void;
}

const waitBuckets = [0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];

export function queueMetrics(metrics: Metrics): QueueMetrics {
  const entries = metrics.gauge("router_queue_entries", "Calls that wait for a replica with room.", ["deployment"]);
  const size = metrics.gauge("router_queue_bytes", "Bytes of the requests that wait.", ["deployment"]);
  const ends = metrics.counter("router_queue_ends_total", "Calls that had to wait, by how it ended.", [
    "deployment",
    "outcome",
  ]);
  const waits = metrics.histogram(
    "router_queue_wait_seconds",
    "How long calls waited for their turn.",
    ["deployment"],
    waitBuckets,
  );
  const promotions = metrics.counter("router_queue_promotions_total", "Moves to a higher class after a long wait.", [
    "deployment",
  ]);
  return {
    ended(deployment, outcome, waitedMs) {
      ends.inc({ deployment, outcome });
      if (outcome === "turn") waits.observe({ deployment }, waitedMs / 1000);
    },
    waiting(deployment, count, bytes) {
      entries.set({ deployment }, count);
      size.set({ deployment }, bytes);
    },
    promoted: (deployment, count) => promotions.inc({ deployment }, count),
    forget(deployment) {
      entries.remove({ deployment });
      size.remove({ deployment });
    },
  };
}

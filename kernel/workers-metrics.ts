import cluster from "node:cluster";
import { AggregatorRegistry, type Registry } from "prom-client";
import type { MetricsPage } from "#kernel/metrics.ts";

/** One metric with its values, as a worker sends it. */
type Sent = Awaited<ReturnType<Registry["getMetricsAsJSON"]>>[number];

/**
 * In the primary of node:cluster: what its workers share, added up (a gauge may say another way). Counters never fall:
 * what a worker had counted when it was last asked stays in the sums when it dies, since a sum that falls is taken for a
 * restart by whoever computes rates from it, and all that the others ever counted for news. Make one for each process.
 */
export function workersMetrics(): MetricsPage {
  const registry = new AggregatorRegistry();
  const last = new Map<number, Sent[][]>();
  let departed: Sent[][] = [];
  cluster.on("message", (worker, message: unknown) => {
    if (isAnswer(message)) last.set(worker.id, message.metrics);
  });
  cluster.on("exit", (worker) => {
    const left = last.get(worker.id) ?? [];
    last.delete(worker.id);
    departed = [...departed, ...left.map((metrics) => metrics.filter(({ type }) => String(type) !== "gauge"))];
  });
  return {
    contentType: registry.contentType,
    async text() {
      // The sums of those that live; by then their answers are here, in the same turn.
      await registry.clusterMetrics();
      if (departed.length > 1) departed = [await AggregatorRegistry.aggregate(departed).getMetricsAsJSON()];
      return AggregatorRegistry.aggregate([...[...last.values()].flat(), ...departed]).metrics();
    },
  };
}

function isAnswer(message: unknown): message is { readonly metrics: Sent[][] } {
  return typeof message === "object" && message !== null && "metrics" in message && Array.isArray(message.metrics);
}

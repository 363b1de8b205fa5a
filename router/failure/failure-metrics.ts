import type { Metrics } from "#kernel/metrics.ts";
import type { EjectedFor } from "./outliers.ts";

/** What failure handling counts; labels are deployments and enums. */
export interface FailureMetrics {
  breakerOpened(deployment: string): void;
  ejected(deployment: string, why: EjectedFor): void;
  /** How many replicas are avoided, for either reason. */
  avoided(replicas: number): void;
  retryRefused(deployment: string): void;
  hedgeRefused(deployment: string, why: "budget" | "saturated"): void;
}

export function failureMetrics(metrics: Metrics): FailureMetrics {
  const opened = metrics.counter("router_breakers_opened_total", "Times that a replica's breaker opened.", [
    "deployment",
  ]);
  const ejections = metrics.counter("router_replicas_ejected_total", "Replicas that did far worse than their peers.", [
    "deployment",
    "why",
  ]);
  const avoided = metrics.gauge("router_replicas_avoided", "Replicas with an open breaker or ejected.");
  const retries = metrics.counter("router_retries_refused_total", "Retries beyond the budget.", ["deployment"]);
  const hedges = metrics.counter("router_hedges_refused_total", "Hedges beyond the budget or near saturation.", [
    "deployment",
    "why",
  ]);
  return {
    breakerOpened: (deployment) => opened.inc({ deployment }),
    ejected: (deployment, why) => ejections.inc({ deployment, why }),
    avoided: (replicas) => avoided.set(replicas),
    retryRefused: (deployment) => retries.inc({ deployment }),
    hedgeRefused: (deployment, why) => hedges.inc({ deployment, why }),
  };
}

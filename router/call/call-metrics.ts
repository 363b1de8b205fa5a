import type { Metrics } from "#kernel/metrics.ts";
import { type Settlement, outcomeName } from "./settle.ts";

/** What calls count. Labels are bounded: doors and reasons are enums, models are those of the registry. */
export interface CallMetrics {
  settled(settlement: Settlement): void;
  retried(reason: string): void;
  /** A call with output lost its replica and goes on elsewhere. */
  moves(reason: string): void;
  /** It has its next output, so long after. */
  moved(afterMs: number): void;
  /** A call with output lost its replica and cannot go on. */
  stayed(why: string): void;
  /** A call that was given to two replicas had its first token from the second (won) or the first (lost). */
  hedged(deployment: string, result: "won" | "lost"): void;
  /** What came of a call that was to be resumed: "resumed", or the code of its error. */
  resumed(outcome: string): void;
  /** A client did not take what was generated for it. */
  slowClientCut(): void;
  /** A call was not copied to its shadow deployment: as many copies as may run are running. */
  shadowSkipped(): void;
}

const latencyBuckets = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];
const tokenBuckets = [0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1];
const callBuckets = [0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600];

export function callMetrics(metrics: Metrics): CallMetrics {
  const calls = metrics.counter("router_calls_total", "Settled calls.", ["door", "model", "outcome", "reason"]);
  const duration = metrics.histogram(
    "router_call_duration_seconds",
    "From door to end.",
    ["door", "model"],
    callBuckets,
  );
  const ttft = metrics.histogram("router_ttft_seconds", "From door to the first token.", ["model"], latencyBuckets);
  const interToken = metrics.histogram(
    "router_inter_token_seconds",
    "Mean time between the tokens of a call after its first, one value a call.",
    ["model"],
    tokenBuckets,
  );
  const waits = metrics.histogram(
    "router_ready_wait_seconds",
    "How long calls waited that found no ready replica.",
    ["model"],
    latencyBuckets,
  );
  const tokens = metrics.counter("router_tokens_total", "Tokens of settled calls.", ["model", "kind"]);
  const retries = metrics.counter("router_retries_total", "Attempts that failed before the first token.", ["reason"]);
  const moves = metrics.counter("router_moves_total", "Calls with output that went on at another replica.", ["reason"]);
  const gaps = metrics.histogram(
    "router_move_seconds",
    "From the loss of a call's replica to its next output.",
    [],
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30],
  );
  const stays = metrics.counter("router_moves_refused_total", "Calls with output that lost their replica and failed.", [
    "why",
  ]);
  const hedges = metrics.counter("router_hedges_total", "Calls given to a second replica for want of a first token.", [
    "deployment",
    "result",
  ]);
  const resumes = metrics.counter("router_resumes_total", "Calls of dead routers that clients came back for.", [
    "outcome",
  ]);
  const cut = metrics.counter("router_slow_clients_cut_total", "Calls ended because the client did not read.");
  const unshadowed = metrics.counter("router_shadows_skipped_total", "Shadow copies not made because too many run.");
  return {
    settled(settlement) {
      const { context, model, outcome, error } = settlement;
      const reason = error?.row.openAiCode ?? "";
      calls.inc({ door: context.door, model, outcome: outcomeName(outcome), reason });
      duration.observe({ door: context.door, model }, settlement.durationMs / 1000);
      // How long callers wait: nobody waits for a copy.
      const { ttftMs, interTokenMs } = context.door === "shadow" ? noTimes : settlement;
      if (ttftMs !== undefined) ttft.observe({ model }, ttftMs / 1000);
      if (interTokenMs !== undefined) interToken.observe({ model }, interTokenMs / 1000);
      if (settlement.waitedMs > 0) waits.observe({ model }, settlement.waitedMs / 1000);
      if (settlement.promptTokens > 0) tokens.inc({ model, kind: "prompt" }, settlement.promptTokens);
      if (settlement.cachedTokens > 0) tokens.inc({ model, kind: "cached" }, settlement.cachedTokens);
      if (settlement.completionTokens > 0) tokens.inc({ model, kind: "completion" }, settlement.completionTokens);
    },
    retried: (reason) => retries.inc({ reason }),
    moves: (reason) => moves.inc({ reason }),
    moved: (afterMs) => gaps.observe(afterMs / 1000),
    stayed: (why) => stays.inc({ why }),
    hedged: (deployment, result) => hedges.inc({ deployment, result }),
    resumed: (outcome) => resumes.inc({ outcome }),
    slowClientCut: () => cut.inc(),
    shadowSkipped: () => unshadowed.inc(),
  };
}

const noTimes = { ttftMs: undefined, interTokenMs: undefined };

import { errorRow } from "#kernel/error-table.ts";
import type { MeshError } from "#kernel/mesh-error.ts";
import type { Metrics } from "#kernel/metrics.ts";

export type MethodName = "generate" | "embed" | "count_tokens";

/** Metrics of calls as this node sees them. */
export class CallMetrics {
  readonly #ended;
  readonly #running;
  readonly #duration;
  readonly #ttft;
  readonly #tokens;
  #runningCount = 0;

  constructor(metrics: Metrics) {
    const seconds = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300];
    this.#ended = metrics.counter("agent_calls_total", "Calls that ended, by outcome.", ["method", "outcome"]);
    this.#running = metrics.gauge("agent_calls_running", "Calls in flight on this node.");
    this.#duration = metrics.histogram(
      "agent_call_duration_seconds",
      "From start to end of a call.",
      ["method"],
      seconds,
    );
    this.#ttft = metrics.histogram("agent_time_to_first_token_seconds", "From start to the first token.", [], seconds);
    this.#tokens = metrics.counter("agent_tokens_total", "Tokens of ended calls.", ["kind"]);
  }

  get runningCount(): number {
    return this.#runningCount;
  }

  started(): void {
    this.#running.set(++this.#runningCount);
  }

  firstToken(afterMs: number): void {
    this.#ttft.observe(afterMs / 1_000);
  }

  ended(method: MethodName, error: MeshError | undefined, durationMs: number): void {
    this.#running.set(--this.#runningCount);
    const outcome = error === undefined ? "completed" : (errorRow(error.reason).openAiCode ?? "unknown");
    this.#ended.inc({ method, outcome });
    this.#duration.observe({ method }, durationMs / 1_000);
  }

  tokens(usage: {
    readonly promptTokens: number;
    readonly cachedTokens: number;
    readonly completionTokens: number;
  }): void {
    this.#tokens.inc({ kind: "prompt" }, usage.promptTokens);
    this.#tokens.inc({ kind: "cached" }, usage.cachedTokens);
    this.#tokens.inc({ kind: "completion" }, usage.completionTokens);
  }
}

import type { Clock } from "#kernel/clock.ts";
import { predict } from "./predict.ts";
import type { DeploymentRates } from "./rates.ts";
import type { Replica } from "./replica.ts";
import type { RoutingMetrics } from "./routing-metrics.ts";

export interface SentCallParts {
  /** Undefined when it left discovery in this same turn. */
  readonly replica: Replica | undefined;
  readonly rates: DeploymentRates;
  /** Estimated at the pick. */
  readonly uncachedTokens: number;
  readonly promptBytes: number;
  readonly clock: Clock;
  readonly metrics: RoutingMetrics;
}

/** One call on one replica, from its dispatch to its end: what it adds to the replica's load, and what it teaches. */
export class SentCall {
  readonly #parts: SentCallParts;
  readonly #sentAtMs: number;
  readonly #predictedMs: number;
  /** In the prediction; what is learnt is what remains to correct. */
  readonly #correction: number;
  #state: "sent" | "admitted" | "answering" | "ended" = "sent";

  constructor(parts: SentCallParts) {
    const { replica, rates, uncachedTokens, clock } = parts;
    this.#parts = parts;
    this.#sentAtMs = clock.monotonicMs();
    replica?.forget(this.#sentAtMs);
    const prediction = replica && predict(replica, uncachedTokens, rates);
    this.#predictedMs = prediction?.ttftMs ?? 0;
    this.#correction = prediction?.correction ?? 1;
    replica?.sent(uncachedTokens);
  }

  /** The engine took the call: its prompt is in what the agent reports from now on. */
  admitted(promptTokens: number): void {
    if (this.#state !== "sent") return;
    this.#state = "admitted";
    const { replica, rates, uncachedTokens, promptBytes } = this.#parts;
    replica?.admitted(uncachedTokens);
    rates.observePrompt(promptBytes, promptTokens);
  }

  firstToken(): void {
    if (this.#state === "answering" || this.#state === "ended") return;
    this.#leaveSent();
    this.#state = "answering";
    const { replica, rates, clock, metrics } = this.#parts;
    if (this.#predictedMs === 0) return;
    const nowMs = clock.monotonicMs();
    const observedMs = nowMs - this.#sentAtMs;
    metrics.predicted(observedMs / this.#predictedMs);
    replica?.observe(rates.observeTtft(this.#predictedMs / this.#correction, observedMs), nowMs);
  }

  /** The agent's last word on the call, or the link is lost; harmless when it comes again. */
  ended(): void {
    if (this.#state === "ended") return;
    this.#leaveSent();
    const { replica, rates, clock } = this.#parts;
    if (this.#state === "answering") rates.observeCall(clock.monotonicMs() - this.#sentAtMs);
    this.#state = "ended";
    replica?.ended();
  }

  #leaveSent(): void {
    if (this.#state === "sent") this.#parts.replica?.admitted(this.#parts.uncachedTokens);
  }
}

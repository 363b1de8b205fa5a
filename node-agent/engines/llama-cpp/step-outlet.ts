import type { Clock, Timer } from "#kernel/clock.ts";
import type { WireEvent } from "./messages.ts";

/**
 * Messages to the agent come at least this far apart. A model of many parameters takes longer for a step, so each of its
 * steps leaves at once; a tiny one makes several tokens in this time, which nobody can read apart, and each message costs
 * agent and router the same whatever it holds (one client on a 1.8 M model, CPU of agent, router and client a token: 330
 * µs with a message a step, 129 with one a millisecond, 95 with one in three).
 */
export const outletIntervalMs = 3;

/** Gathers what decode steps bring and passes it on, in order; tokens of one sequence that wait together become one event. */
export class StepOutlet {
  readonly #clock: Clock;
  readonly #onEvents: (events: readonly WireEvent[]) => void;
  #events: WireEvent[] = [];
  #lastMs = Number.NEGATIVE_INFINITY;
  #timer: Timer | undefined;
  /** A start or an end waits: a first token and a last word are not held back. */
  #urgent = false;

  constructor(clock: Clock, onEvents: (events: readonly WireEvent[]) => void) {
    this.#clock = clock;
    this.#onEvents = onEvents;
  }

  push(event: WireEvent): void {
    if (event.kind !== "tokens") this.#urgent = true;
    this.#events.push(event);
  }

  /** A step has ended: what waits leaves now, or when the interval is over. */
  stepEnded(): void {
    if (this.#events.length === 0) return;
    const leftMs = this.#lastMs + outletIntervalMs - this.#clock.monotonicMs();
    if (this.#urgent || leftMs <= 0) this.flush();
    else this.#timer ??= this.#clock.setTimer(leftMs, () => this.flush());
  }

  flush(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
    if (this.#events.length === 0) return;
    const events = joined(this.#events);
    this.#events = [];
    this.#urgent = false;
    this.#lastMs = this.#clock.monotonicMs();
    this.#onEvents(events);
  }
}

/** Runs of tokens of one sequence as one event each; order within a sequence stays. */
function joined(events: readonly WireEvent[]): WireEvent[] {
  const out: WireEvent[] = [];
  /** Where in `out` a sequence's latest tokens are, if nothing else of it came after them. */
  const open = new Map<number, number>();
  for (const event of events) {
    const at = open.get(event.id);
    const before = at === undefined ? undefined : out[at];
    if (event.kind !== "tokens") {
      open.delete(event.id);
      out.push(event);
    } else if (at !== undefined && before?.kind === "tokens") {
      const logprobs = [...(before.logprobs ?? []), ...(event.logprobs ?? [])];
      out[at] = {
        kind: "tokens",
        id: event.id,
        text: before.text + event.text,
        tokenIds: [...before.tokenIds, ...event.tokenIds],
        ...(logprobs.length > 0 && { logprobs }),
      };
    } else {
      open.set(event.id, out.length);
      out.push(event);
    }
  }
  return out;
}

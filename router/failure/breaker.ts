import { Backoff } from "#kernel/backoff.ts";
import { unreachable } from "#kernel/invariant.ts";
import type { Random } from "#kernel/random.ts";
import { Decayed } from "./decayed.ts";

/** Failures without a success between them that open it. */
const mostConsecutive = 5;
/** Share of failures that opens it, once there are `leastCalls` within about two half-lives. */
const mostFailing = 0.5;
const leastCalls = 10;
const halfLifeMs = 5_000;
/** How long it stays open, the longer the more often in a row. */
const openMs = { initialMs: 2_000, maxMs: 60_000 };
/** A probe that has shown nothing by then does not hold up the next one. */
const probeMs = 30_000;

type BreakerState =
  /** Takes all. */
  | { readonly kind: "closed" }
  /** Takes none before `untilMs`. */
  | { readonly kind: "open"; readonly untilMs: number }
  /** One call, the probe, shows whether it may close; it takes no other before `untilMs`. */
  | { readonly kind: "probing"; readonly untilMs: number };

/**
 * Keeps calls from a replica that fails them. It opens after failures in a row or when half of the recent calls failed,
 * lets one probe through when its time is over, and closes when a call succeeds then. It is told of failures that are
 * the replica's fault only (health.ts decides which are). Pure: callers bring the time.
 */
export class Breaker {
  readonly #backoff: Backoff;
  readonly #calls = new Decayed(halfLifeMs);
  readonly #failures = new Decayed(halfLifeMs);
  #consecutive = 0;
  #state: BreakerState = { kind: "closed" };

  constructor(random: Random) {
    this.#backoff = new Backoff(openMs, random);
  }

  get kind(): BreakerState["kind"] {
    return this.#state.kind;
  }

  mayTake(nowMs: number): boolean {
    return this.#state.kind === "closed" || nowMs >= this.#state.untilMs;
  }

  /** A call goes there. */
  dispatched(nowMs: number): void {
    if (this.#state.kind !== "closed") this.#state = { kind: "probing", untilMs: nowMs + probeMs };
  }

  /** A call had its first token. */
  succeeded(nowMs: number): void {
    switch (this.#state.kind) {
      case "closed":
        this.#consecutive = 0;
        this.#calls.add(1, nowMs);
        return;
      case "open":
        // Begun before it opened: no news.
        return;
      case "probing":
        this.#state = { kind: "closed" };
        this.#consecutive = 0;
        this.#backoff.reset();
        return;
      default:
        unreachable(this.#state);
    }
  }

  /** True when it opens with this. */
  failed(nowMs: number): boolean {
    if (this.#state.kind === "open") return false;
    this.#consecutive += 1;
    this.#calls.add(1, nowMs);
    this.#failures.add(1, nowMs);
    const calls = this.#calls.at(nowMs);
    const fails = calls >= leastCalls && this.#failures.at(nowMs) >= calls * mostFailing;
    if (this.#state.kind === "closed" && this.#consecutive < mostConsecutive && !fails) return false;
    this.#state = { kind: "open", untilMs: nowMs + this.#backoff.nextMs() };
    return true;
  }

  /** A call ended that says nothing of the replica; if it was the probe, the next call may be one. */
  abandoned(nowMs: number): void {
    if (this.#state.kind === "probing") this.#state = { kind: "open", untilMs: nowMs };
  }
}

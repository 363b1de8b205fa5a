import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import type { Metrics } from "#kernel/metrics.ts";

export interface LimitsOptions {
  /** Most calls in flight on this router. */
  readonly maxCalls: number;
  /** Most calls in flight of one key on this router. */
  readonly maxCallsPerKey: number;
}

/** Room for one call; given back once, further releases change nothing. */
export interface Permit {
  release(): void;
}

/** How many calls run at once, in all and per key. The key table's size bounds what is kept here. */
export class Limits {
  readonly #options: LimitsOptions;
  readonly #ofKey = new Map<string, number>();
  readonly #refusals;
  #inFlight = 0;

  constructor(options: LimitsOptions, metrics: Metrics) {
    this.#options = options;
    metrics.follow("router_calls_in_flight", "Calls admitted and not yet settled.", () => this.#inFlight);
    this.#refusals = metrics.counter("router_admission_refusals_total", "Calls refused at a limit.", ["limit"]);
  }

  get inFlight(): number {
    return this.#inFlight;
  }

  /** @throws MeshError OVERLOADED (the router is full), RATE_LIMITED (the key is). */
  enter(keyId: string): Permit {
    const { maxCalls, maxCallsPerKey } = this.#options;
    if (this.#inFlight >= maxCalls) {
      this.#refusals.inc({ limit: "max_calls" });
      throw new MeshError(Reason.OVERLOADED, `This router runs ${maxCalls} calls, its limit; try again shortly.`, {
        limit: `${maxCalls} concurrent calls`,
        retryAfterMs: 1000,
      });
    }
    const ofKey = this.#ofKey.get(keyId) ?? 0;
    if (ofKey >= maxCallsPerKey) {
      this.#refusals.inc({ limit: "max_calls_per_key" });
      throw new MeshError(
        Reason.RATE_LIMITED,
        `The API key ${keyId} has ${maxCallsPerKey} calls running, its limit; wait for one to end.`,
        { limit: `${maxCallsPerKey} concurrent calls per key`, retryAfterMs: 1000 },
      );
    }
    this.#inFlight += 1;
    this.#ofKey.set(keyId, ofKey + 1);
    let held = true;
    return {
      release: () => {
        if (!held) return;
        held = false;
        this.#leave(keyId);
      },
    };
  }

  #leave(keyId: string): void {
    this.#inFlight -= 1;
    const left = (this.#ofKey.get(keyId) ?? 1) - 1;
    if (left === 0) this.#ofKey.delete(keyId);
    else this.#ofKey.set(keyId, left);
  }
}

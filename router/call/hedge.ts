import { Method } from "#gen/helixmesh/link/v1/link_pb.ts";
import type { Timer } from "#kernel/clock.ts";
import type { Picked } from "../routing/routes.ts";
import type { Attempt } from "./attempt.ts";
import type { CallParts, CallSpec } from "./call-parts.ts";
import type { Search } from "./search.ts";

/** Hedges per 100 calls of a deployment that names no share (type.v1 DeploymentRouting). */
const usualPercent = 5;

/**
 * Asks a second replica when the first brings no token in time, where the deployment wants that: under a budget, and not
 * where that replica would be short of room for others.
 */
export class Hedge {
  readonly #parts: CallParts;
  readonly #spec: CallSpec;
  readonly #search: Search;
  #timer: Timer | undefined;
  #second: Attempt | undefined;

  constructor(parts: CallParts, spec: CallSpec, search: Search) {
    this.#parts = parts;
    this.#spec = spec;
    this.#search = search;
  }

  /** The call was sent to `first`. `ask` sends it to another replica too; it may refuse. */
  arm(first: Picked, ask: (second: Picked) => Attempt | undefined): void {
    const afterMs = first.routing?.hedgeAfterMs ?? 0;
    const { method, deployment } = this.#spec;
    // Shadow copies are extra work already.
    if (afterMs === 0 || method !== Method.GENERATE || deployment !== undefined) return;
    this.#timer = this.#parts.clock.setTimer(afterMs, () => {
      const second = this.#choose(first);
      if (second) this.#second = ask(second);
    });
  }

  /** `winner` has the first token; undefined: neither has, and the call goes another way. */
  over(winner: Attempt | undefined): void {
    this.#timer?.cancel();
    this.#timer = undefined;
    if (!this.#second) return;
    const { deployment } = this.#second.picked;
    this.#parts.metrics.hedged(deployment, winner === this.#second ? "won" : "lost");
    this.#second = undefined;
  }

  #choose(first: Picked): Picked | undefined {
    const { rooms, health } = this.#parts;
    const { deployment, routing } = first;
    const percent = routing?.hedgePercent || usualPercent;
    const second = rooms.of(deployment) === "free" ? this.#search.second(first) : undefined;
    const mayHedge = health.mayHedge(deployment, percent, second === undefined || second.saturated);
    return mayHedge ? second : undefined;
  }
}

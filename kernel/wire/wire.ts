import type { Clock, Timer } from "#kernel/clock.ts";
import { type Bound, type WireLimits, wireLimits } from "#kernel/wire/limits.ts";
import type { ByteBudget } from "#kernel/wire/outlet.ts";

export interface WireOptions {
  readonly clock: Clock;
  /** Changes to the defaults. */
  readonly limits?: Partial<WireLimits>;
  /** Hears of every bound that was reached, for a metric. */
  readonly onBound?: (bound: Bound) => void;
}

/** How often connections look at their timeouts, so how late one may be noticed. */
const sweepIntervalMs = 500;

export interface Sweepable {
  sweep(nowMs: number): void;
}

/** What connections share: limits, the global byte budget, and one timer for the timeouts of all. */
export class Wire {
  readonly clock: Clock;
  readonly limits: WireLimits;
  readonly budget: ByteBudget = { usedBytes: 0 };
  readonly reached: (bound: Bound) => void;
  readonly #connections = new Set<Sweepable>();
  #timer: Timer | undefined;

  constructor(options: WireOptions) {
    this.clock = options.clock;
    this.limits = wireLimits(options.limits);
    this.reached = options.onBound ?? (() => {});
  }

  get connections(): number {
    return this.#connections.size;
  }

  /** For a connection: to be swept until it is removed. */
  add(connection: Sweepable): void {
    this.#connections.add(connection);
    this.#timer ??= this.#next();
  }

  remove(connection: Sweepable): void {
    this.#connections.delete(connection);
    if (this.#connections.size > 0) return;
    this.#timer?.cancel();
    this.#timer = undefined;
  }

  #next(): Timer {
    const sweep = (): void => {
      this.#timer = this.#next();
      const nowMs = this.clock.monotonicMs();
      for (const connection of this.#connections) connection.sweep(nowMs);
    };
    return this.clock.setTimer(sweepIntervalMs, sweep, { unref: true });
  }
}

import { type Clock, sleep } from "#kernel/clock.ts";

const shortestGapMs = 1_000;
const longestGapMs = 30_000;

/** When the next status report is due: soon after a change, at most once a second, at least every 30 seconds. */
export class StatusPace {
  readonly #clock: Clock;
  #dirty = false;
  #reportedAtMs = Number.NEGATIVE_INFINITY;
  #wake: (() => void) | undefined;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  changed(): void {
    this.#dirty = true;
    this.#wake?.();
  }

  /** Called as a report is made: what changes from here on needs another. */
  reported(): void {
    this.#dirty = false;
    this.#reportedAtMs = this.#clock.monotonicMs();
  }

  async due(signal: AbortSignal): Promise<void> {
    if (!this.#dirty) {
      const changed = new AbortController();
      this.#wake = () => changed.abort();
      await this.#untilAfterReport(longestGapMs, AbortSignal.any([signal, changed.signal]));
      this.#wake = undefined;
    }
    await this.#untilAfterReport(shortestGapMs, signal);
  }

  async #untilAfterReport(gapMs: number, signal: AbortSignal): Promise<void> {
    const leftMs = this.#reportedAtMs + gapMs - this.#clock.monotonicMs();
    if (leftMs > 0) await sleep(this.#clock, leftMs, signal);
  }
}

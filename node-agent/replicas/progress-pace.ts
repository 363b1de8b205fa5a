import type { Clock, Timer } from "#kernel/clock.ts";

/** Less than a hundredth is no news; what a sum of hundredths loses by rounding is allowed for. */
const leastStep = 0.01 - 1e-9;
/** Four times a second. */
const leastGapMs = 250;

/**
 * When a replica's progress is told: engines and downloads say it with every piece they read, and each word goes to every
 * router. `tell` is called at once for the first news, then in its time for the newest.
 */
export class ProgressPace {
  readonly #clock: Clock;
  readonly #tell: () => void;
  #told = 0;
  #toldMs = Number.NEGATIVE_INFINITY;
  #newest = 0;
  #timer: Timer | undefined;

  constructor(clock: Clock, tell: () => void) {
    this.#clock = clock;
    this.#tell = tell;
  }

  /** Another state was told, with the progress it begins at. */
  restart(progress: number): void {
    this.#timer?.cancel();
    this.#timer = undefined;
    this.#told = progress;
    this.#toldMs = this.#clock.monotonicMs();
  }

  moved(progress: number): void {
    this.#newest = progress;
    if (this.#timer || Math.abs(progress - this.#told) < leastStep) return;
    const leftMs = this.#toldMs + leastGapMs - this.#clock.monotonicMs();
    if (leftMs <= 0) return this.#say();
    this.#timer = this.#clock.setTimer(leftMs, () => this.#say(), { unref: true });
  }

  #say(): void {
    this.restart(this.#newest);
    this.#tell();
  }
}

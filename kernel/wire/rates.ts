import type { Rate } from "#kernel/wire/limits.ts";

/** A token bucket: a burst at once, then so many a second. */
export class Bucket {
  readonly #rate: Rate;
  #tokens: number;
  #sinceMs: number;

  constructor(rate: Rate, nowMs: number) {
    this.#rate = rate;
    this.#tokens = rate.burst;
    this.#sinceMs = nowMs;
  }

  /** False when there is nothing left to take. */
  spend(nowMs: number): boolean {
    if (this.#tokens < 1) {
      this.earn(((nowMs - this.#sinceMs) / 1_000) * this.#rate.perSecond);
      this.#sinceMs = nowMs;
      if (this.#tokens < 1) return false;
    }
    this.#tokens -= 1;
    return true;
  }

  earn(tokens: number): void {
    this.#tokens = Math.min(this.#rate.burst, this.#tokens + tokens);
  }
}

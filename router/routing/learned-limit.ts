/**
 * How many calls a replica takes at once, learnt from its refusals: for engines that do not say, or say too much. There
 * is no limit until the first refusal; one lowers it to what ran then, and it grows by one for as many calls as it
 * allows that end well, until it is where nothing was refused for long and is forgotten (additive increase,
 * multiplicative decrease).
 */
export class LearnedLimit {
  #limit = Number.POSITIVE_INFINITY;
  #forgetAt = 0;
  #ends = 0;

  /** Calls at once; at least 1. */
  get calls(): number {
    return this.#limit;
  }

  /** The replica had no room for one more on top of `calls`. */
  refused(calls: number): void {
    this.#limit = Math.max(1, Math.min(this.#limit === Number.POSITIVE_INFINITY ? calls : this.#limit - 1, calls));
    this.#forgetAt = this.#limit * 2;
    this.#ends = 0;
  }

  ended(): void {
    if (this.#limit === Number.POSITIVE_INFINITY) return;
    this.#ends += 1;
    if (this.#ends < this.#limit) return;
    this.#ends = 0;
    this.#limit += 1;
    if (this.#limit > this.#forgetAt) this.#limit = Number.POSITIVE_INFINITY;
  }
}

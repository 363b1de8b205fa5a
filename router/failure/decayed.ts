/** Share of the half-life within which nothing fades: a power for every call would cost more than it tells. */
const step = 1 / 1_000;

/** A sum that forgets: each addition counts half after `halfLifeMs`, to within a thousandth. */
export class Decayed {
  readonly #halfLifeMs: number;
  #sum = 0;
  #atMs = 0;

  constructor(halfLifeMs: number) {
    this.#halfLifeMs = halfLifeMs;
  }

  at(nowMs: number): number {
    const age = (nowMs - this.#atMs) / this.#halfLifeMs;
    if (age < step) return this.#sum;
    this.#sum *= 0.5 ** age;
    this.#atMs = nowMs;
    return this.#sum;
  }

  add(amount: number, nowMs: number): void {
    this.#sum = this.at(nowMs) + amount;
  }
}

/** A sum that forgets: each addition counts half after `halfLifeMs`. */
export class Decayed {
  readonly #halfLifeMs: number;
  #sum = 0;
  #atMs = 0;

  constructor(halfLifeMs: number) {
    this.#halfLifeMs = halfLifeMs;
  }

  at(nowMs: number): number {
    if (this.#sum === 0) return 0;
    this.#sum *= 0.5 ** ((nowMs - this.#atMs) / this.#halfLifeMs);
    this.#atMs = nowMs;
    return this.#sum;
  }

  add(amount: number, nowMs: number): void {
    this.#sum = this.at(nowMs) + amount;
    this.#atMs = nowMs;
  }
}

import type { Random } from "#kernel/random.ts";

export interface BackoffOptions {
  readonly initialMs: number;
  readonly maxMs: number;
}

/**
 * Exponential back-off with jitter: each delay is uniform in [half, whole] of a step that doubles up to `maxMs`,
 * so that a thousand clients that lost the same peer do not return together.
 */
export class Backoff {
  readonly #options: BackoffOptions;
  readonly #random: Random;
  #stepMs: number;

  constructor(options: BackoffOptions, random: Random) {
    this.#options = options;
    this.#random = random;
    this.#stepMs = options.initialMs;
  }

  nextMs(): number {
    const stepMs = this.#stepMs;
    this.#stepMs = Math.min(this.#options.maxMs, stepMs * 2);
    return stepMs / 2 + (this.#random.next() * stepMs) / 2;
  }

  /** After a success: the next failure starts small again. */
  reset(): void {
    this.#stepMs = this.#options.initialMs;
  }
}

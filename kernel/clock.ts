import { performance } from "node:perf_hooks";

/** The only door to time: code that decides takes a `Clock`, so that a test or a simulator can own it. */
export interface Clock {
  /** Wall clock, Unix milliseconds. For records and expiry, never for durations. */
  nowMs(): number;
  /** Monotonic milliseconds with a fraction, from an arbitrary origin. For durations and deadlines. */
  monotonicMs(): number;
  /** Calls `callback` once after `delayMs`, unless cancelled. An unref'd timer does not keep the process alive. */
  setTimer(delayMs: number, callback: () => void, options?: { readonly unref?: boolean }): Timer;
}

export interface Timer {
  /** Idempotent; harmless after the timer fired. */
  cancel(): void;
}

/** Longest delay that Node's timers take (2^31 - 1 ms); a longer one would fire at once. */
const longestDelayMs = 2_147_483_647;

/** With the module's `performance`: the global one is a getter, which costs as much as the reading. */
export const systemClock: Clock = {
  nowMs: () => Date.now(),
  monotonicMs: () => performance.now(),
  setTimer(delayMs, callback, options) {
    const timer = setTimeout(callback, Math.min(Math.max(0, delayMs), longestDelayMs));
    if (options?.unref) timer.unref();
    return { cancel: () => clearTimeout(timer) };
  },
};

/** Resolves after `delayMs`, or at once when `signal` aborts (it never rejects: callers look at the signal). */
export function sleep(clock: Clock, delayMs: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted) return resolve();
    const timer = clock.setTimer(delayMs, done);
    function done(): void {
      timer.cancel();
      signal?.removeEventListener("abort", done);
      resolve();
    }
    signal?.addEventListener("abort", done, { once: true });
  });
}

/** A clock that moves only when told to; timers fire in order of their due time. */
export class ManualClock implements Clock {
  #nowMs: number;
  #nextId = 0;
  readonly #timers = new Map<number, { dueMs: number; callback: () => void }>();

  constructor(startMs = 1_700_000_000_000) {
    this.#nowMs = startMs;
  }

  nowMs(): number {
    return this.#nowMs;
  }

  monotonicMs(): number {
    return this.#nowMs;
  }

  setTimer(delayMs: number, callback: () => void): Timer {
    const id = this.#nextId++;
    this.#timers.set(id, { dueMs: this.#nowMs + Math.max(0, delayMs), callback });
    return { cancel: () => void this.#timers.delete(id) };
  }

  /** Moves time forward and fires what falls due on the way, timers set by callbacks included. */
  advance(byMs: number): void {
    const untilMs = this.#nowMs + byMs;
    for (;;) {
      let next: [number, { dueMs: number; callback: () => void }] | undefined;
      for (const entry of this.#timers) if (!next || entry[1].dueMs < next[1].dueMs) next = entry;
      if (!next || next[1].dueMs > untilMs) break;
      this.#timers.delete(next[0]);
      this.#nowMs = Math.max(this.#nowMs, next[1].dueMs);
      next[1].callback();
    }
    this.#nowMs = untilMs;
  }

  get pendingTimers(): number {
    return this.#timers.size;
  }
}

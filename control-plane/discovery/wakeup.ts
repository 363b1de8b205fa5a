import type { Clock } from "#kernel/clock.ts";

/** Lets one reader wait for news. News that come while nobody waits are remembered. */
export class Wakeup {
  #news = false;
  #resolve: (() => void) | undefined;

  wake(): void {
    this.#news = true;
    this.#resolve?.();
  }

  /** Resolves with true on news, with false after `timeoutMs` without any or when `signal` aborts. */
  async wait(clock: Clock, timeoutMs: number, signal: AbortSignal): Promise<boolean> {
    if (!this.#news && !signal.aborted) {
      await new Promise<void>((resolve) => {
        const done = (): void => {
          timer.cancel();
          signal.removeEventListener("abort", done);
          this.#resolve = undefined;
          resolve();
        };
        const timer = clock.setTimer(timeoutMs, done, { unref: true });
        this.#resolve = done;
        signal.addEventListener("abort", done, { once: true });
      });
    }
    const news = this.#news;
    this.#news = false;
    return news;
  }
}

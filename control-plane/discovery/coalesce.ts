import type { Clock, Timer } from "#kernel/clock.ts";

export interface Coalesced {
  /** Asks for a run. One that is waiting already serves this request too; one under way does not. */
  trigger(): void;
  /** Runs no more; resolves when a run under way has ended. */
  close(): Promise<void>;
}

export interface CoalesceOptions {
  /** Must not reject. */
  readonly run: () => Promise<void>;
  readonly clock: Clock;
  /** From the end of one run to the start of the next, so that a burst of changes costs a few runs. */
  readonly minGapMs: number;
  /** A run comes at the latest this long after the last one ended. */
  readonly intervalMs: number;
}

/** Runs one thing at a time, soon after it is asked for and every now and then, however often it is asked for. */
export function coalesce({ run, clock, minGapMs, intervalMs }: CoalesceOptions): Coalesced {
  let running: Promise<void> | undefined;
  let wanted = false;
  let closed = false;
  let timer: Timer | undefined;
  let dueSoon = false;

  function arm(): void {
    timer?.cancel();
    if (closed || running) return;
    dueSoon = wanted;
    timer = clock.setTimer(wanted ? minGapMs : intervalMs, start, { unref: true });
  }

  function start(): void {
    wanted = false;
    running = run().finally(() => {
      running = undefined;
      arm();
    });
  }

  arm();
  return {
    trigger() {
      wanted = true;
      if (!running && !dueSoon) arm();
    },
    async close() {
      closed = true;
      timer?.cancel();
      await running;
    },
  };
}

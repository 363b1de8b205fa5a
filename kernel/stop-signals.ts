import type { EventEmitter } from "node:events";
import type { Clock } from "#kernel/clock.ts";

export interface StopSignals {
  /** Aborts at the first signal, with its name as the reason: drain and end. */
  readonly requested: AbortSignal;
  /** Aborts at a second one: kill and end. */
  readonly forced: AbortSignal;
}

/** One Ctrl-C arrives as often as there are processes that pass it on: npm, a launcher, the terminal itself. */
const sameSignalMs = 500;

/**
 * SIGINT, SIGTERM, SIGHUP and the end of the process that started us (its IPC channel closes) all ask to stop.
 */
export function watchStopSignals(source: EventEmitter, clock: Clock): StopSignals {
  const requested = new AbortController();
  const forced = new AbortController();
  let firstMs: number | undefined;
  function onSignal(name: string): void {
    if (firstMs === undefined) {
      firstMs = clock.monotonicMs();
      requested.abort(name);
    } else if (clock.monotonicMs() - firstMs >= sameSignalMs) {
      forced.abort();
    }
  }
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) source.on(signal, () => onSignal(signal));
  source.on("disconnect", () => onSignal("the end of the process that started this one"));
  return { requested: requested.signal, forced: forced.signal };
}

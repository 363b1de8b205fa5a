import type { ChildProcess } from "node:child_process";
import { Backoff, type BackoffOptions } from "#kernel/backoff.ts";
import { type Clock, type Timer, sleep } from "#kernel/clock.ts";
import type { Logger } from "#kernel/log.ts";
import { type Random, systemRandom } from "#kernel/random.ts";

export interface ChildExit {
  /** Null when a signal ended it or it could not be started. */
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  /** Why it could not be started. */
  readonly error?: Error;
}

export interface SuperviseOptions {
  /** For logs. */
  readonly name: string;
  /** Starts the child anew; called once at once and after each exit. */
  readonly start: () => ChildProcess;
  readonly backoff: Backoff | BackoffOptions;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly random?: Random;
  /** After every exit that `stop` did not ask for. */
  readonly onExit?: (exit: ChildExit) => void;
  /** After the last restart failed; nothing is restarted any more. */
  readonly onGiveUp?: (exit: ChildExit) => void;
  /** Exits in a row, each sooner than `stableMs`, before it gives up. Default: never. */
  readonly giveUpAfter?: number;
  /** A child that lived this long was healthy: its exit starts the count and the back-off anew. Default 30,000. */
  readonly stableMs?: number;
}

export interface Supervised {
  /** Undefined between an exit and the restart. */
  readonly child: ChildProcess | undefined;
  /** Sends `signal`, then SIGKILL after `timeoutMs`; resolves when the child is gone. Nothing is restarted. */
  stop(signal: NodeJS.Signals, timeoutMs: number): Promise<void>;
}

/** Keeps one child process running. */
export function supervise(options: SuperviseOptions): Supervised {
  const { name, clock, logger, giveUpAfter = Number.POSITIVE_INFINITY, stableMs = 30_000 } = options;
  const { backoff: given, random = systemRandom } = options;
  const backoff = given instanceof Backoff ? given : new Backoff(given, random);
  const stopping = new AbortController();
  let child: ChildProcess | undefined;
  let gone: Promise<ChildExit> = Promise.resolve({ code: null, signal: null });
  let failures = 0;

  async function run(): Promise<void> {
    while (!stopping.signal.aborted) {
      const startedMs = clock.monotonicMs();
      gone = startChild();
      const exit = await gone;
      child = undefined;
      if (stopping.signal.aborted) return;
      if (clock.monotonicMs() - startedMs >= stableMs) {
        failures = 0;
        backoff.reset();
      }
      failures++;
      options.onExit?.(exit);
      if (failures >= giveUpAfter) {
        logger.error("child process keeps failing; giving up", { child: name, ...exit, failures });
        options.onGiveUp?.(exit);
        return;
      }
      const delayMs = backoff.nextMs();
      logger.warn("child process exited; restarting", { child: name, ...exit, restartInMs: Math.round(delayMs) });
      await sleep(clock, delayMs, stopping.signal);
    }
  }

  function startChild(): Promise<ChildExit> {
    return new Promise((resolve) => {
      try {
        const started = options.start();
        child = started;
        started.once("exit", (code, signal) => resolve({ code, signal }));
        // A child that cannot be spawned has no exit. Later errors (a kill or a message that failed) are not its end.
        started.on("error", (error) => {
          if (started.pid === undefined) resolve({ code: null, signal: null, error });
          else logger.warn("child process error", { child: name, error });
        });
      } catch (error) {
        resolve({ code: null, signal: null, error: error instanceof Error ? error : new Error(String(error)) });
      }
    });
  }

  const running = run();

  return {
    get child() {
      return child;
    },
    async stop(signal, timeoutMs) {
      stopping.abort();
      let timer: Timer | undefined;
      const target = child;
      if (target) {
        target.kill(signal);
        timer = clock.setTimer(timeoutMs, () => {
          logger.warn("child process ignored its signal; killing it", { child: name, signal, timeoutMs });
          target.kill("SIGKILL");
        });
      }
      await gone;
      timer?.cancel();
      await running;
    },
  };
}

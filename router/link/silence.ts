import type { Clock, Timer } from "#kernel/clock.ts";

/** An agent that is silent for this many of its own heartbeat intervals is lost (link.proto). */
const missedHeartbeats = 3;

/*
 * A link with running calls of a known pace is given up sooner. Its agent says something after every decode step, and
 * when no step ends (a long prefill, a stuck engine) a heartbeat at the latest after one interval. So one interval and
 * a half of silence is no slow engine: process, host or network are gone. 20 steps are the floor for engines whose step
 * is longer than a heartbeat, and a second keeps a short pause of the agent's event loop from ending its calls.
 */
const busyHeartbeats = 1.5;
const busySteps = 20;
const busyFloorMs = 1_000;

export interface SilenceOptions {
  readonly clock: Clock;
  /** How often the agent says something. */
  readonly heartbeatMs: number;
  /** The longest decode step among the replicas that run our calls, milliseconds; undefined when none is known. */
  readonly stepMs: () => number | undefined;
  readonly onSilent: (silentMs: number) => void;
}

/** Watches that an agent goes on speaking. One timer, which sleeps until the limit could be reached. */
export class Silence {
  readonly #options: SilenceOptions;
  #lastHeardMs: number;
  #dueMs = 0;
  #timer: Timer | undefined;
  #suspected = false;

  constructor(options: SilenceOptions) {
    this.#options = options;
    this.#lastHeardMs = options.clock.monotonicMs();
    this.#arm(this.#limitMs());
  }

  heard(nowMs: number): void {
    this.#lastHeardMs = nowMs;
  }

  /** A call has begun: the limit may be nearer now. */
  tighten(): void {
    const { clock, heartbeatMs } = this.#options;
    const leftMs = this.#dueMs - clock.monotonicMs();
    // Most of the time: no limit is below this.
    if (leftMs <= Math.max(heartbeatMs * busyHeartbeats, busyFloorMs)) return;
    const limitMs = this.#limitMs();
    if (leftMs <= limitMs) return;
    this.#timer?.cancel();
    this.#arm(limitMs);
  }

  stop(): void {
    this.#timer?.cancel();
  }

  #limitMs(): number {
    const { heartbeatMs, stepMs } = this.#options;
    const idleMs = heartbeatMs * missedHeartbeats;
    const step = stepMs();
    if (step === undefined) return idleMs;
    return Math.min(idleMs, Math.max(heartbeatMs * busyHeartbeats, step * busySteps, busyFloorMs));
  }

  #arm(delayMs: number): void {
    const { clock } = this.#options;
    this.#dueMs = clock.monotonicMs() + delayMs;
    this.#timer = clock.setTimer(delayMs, () => this.#check());
  }

  #check(): void {
    const silentMs = this.#options.clock.monotonicMs() - this.#lastHeardMs;
    const limitMs = this.#limitMs();
    if (silentMs < limitMs) {
      this.#suspected = false;
      this.#arm(limitMs - silentMs);
    } else if (this.#suspected) {
      this.#options.onSilent(silentMs);
    } else {
      // If this process was held up itself, what the agent said lies unread in the socket: read it first.
      this.#suspected = true;
      this.#arm(1);
    }
  }
}

import type { Clock, Timer } from "#kernel/clock.ts";

/** An agent that is silent for this many of its own heartbeat intervals is lost (link.proto). */
const missedHeartbeats = 3;

/*
 * A link with running calls of a known pace is given up sooner. Its agent says something after every decode step, and
 * when no step ends (a long prefill, a stuck engine) a heartbeat at the latest after one busy interval. So two of them
 * in silence are no slow engine: process, host or network are gone. 20 steps are the floor for engines whose step is
 * longer than a heartbeat, and `patienceMs` keeps a short pause of the agent's event loop from ending its calls.
 */
const busyHeartbeats = 2;
const busySteps = 20;

export interface SilenceOptions {
  readonly clock: Clock;
  /** How often the agent says something. */
  readonly heartbeatMs: number;
  /** The same while calls of ours run. */
  readonly busyHeartbeatMs: number;
  /** No shorter silence ends running calls. */
  readonly patienceMs: number;
  /** The longest decode step among the replicas that run our calls, milliseconds; undefined when none is known. */
  readonly stepMs: () => number | undefined;
  readonly onSilent: (silentMs: number) => void;
}

/** Watches that an agent goes on speaking. One timer, which sleeps until the limit could be reached. */
export class Silence {
  readonly #options: SilenceOptions;
  #lastHeardMs: number;
  /** Since when calls of ours run. */
  #busySinceMs = 0;
  #dueMs = 0;
  #timer: Timer | undefined;
  #suspected = false;

  constructor(options: SilenceOptions) {
    this.#options = options;
    this.#lastHeardMs = options.clock.monotonicMs();
    this.#arm(this.#deadlineMs());
  }

  heard(nowMs: number): void {
    this.#lastHeardMs = nowMs;
  }

  /** A call has begun, beside others or as the first: the deadline may be nearer now. */
  tighten(isFirst: boolean): void {
    const { clock } = this.#options;
    const nowMs = clock.monotonicMs();
    if (isFirst) this.#busySinceMs = nowMs;
    // Most of the time: no limit is below this.
    if (this.#dueMs - nowMs <= this.#leastBusyMs) return;
    const deadlineMs = this.#deadlineMs();
    if (this.#dueMs <= deadlineMs) return;
    this.#timer?.cancel();
    this.#arm(deadlineMs);
  }

  stop(): void {
    this.#timer?.cancel();
  }

  get #leastBusyMs(): number {
    const { busyHeartbeatMs, patienceMs } = this.#options;
    return Math.max(busyHeartbeatMs * busyHeartbeats, patienceMs);
  }

  /** When it has been silent for too long, on the monotonic clock. */
  #deadlineMs(): number {
    const { heartbeatMs, stepMs } = this.#options;
    const idleMs = this.#lastHeardMs + heartbeatMs * missedHeartbeats;
    const step = stepMs();
    if (step === undefined) return idleMs;
    // An agent without calls says less: that it was silent before the first one is no sign.
    const sinceMs = Math.max(this.#lastHeardMs, this.#busySinceMs);
    return Math.min(idleMs, sinceMs + Math.max(this.#leastBusyMs, step * busySteps));
  }

  #arm(dueMs: number): void {
    const { clock } = this.#options;
    this.#dueMs = dueMs;
    this.#timer = clock.setTimer(dueMs - clock.monotonicMs(), () => this.#check());
  }

  #check(): void {
    const nowMs = this.#options.clock.monotonicMs();
    const deadlineMs = this.#deadlineMs();
    if (nowMs < deadlineMs) {
      this.#suspected = false;
      this.#arm(deadlineMs);
    } else if (this.#suspected) {
      this.#options.onSilent(nowMs - this.#lastHeardMs);
    } else {
      // If this process was held up itself, what the agent said lies unread in the socket: read it first.
      this.#suspected = true;
      this.#arm(nowMs + 1);
    }
  }
}

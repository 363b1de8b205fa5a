/** How much of the past one more turn pushes out: the estimate is a mean over about this many turns. */
const memoryTurns = 64;

/**
 * How fast a queue drains, measured while somebody waits and could be served: turns given per time. It forgets by turns
 * and not by time, because calls that began together end together, and the long silence until then is no standstill.
 */
export class DrainRate {
  #turns = 0;
  #busyMs = 0;
  /** When the time began that is not in `#busyMs` yet; undefined while nobody waits. */
  #sinceMs: number | undefined;

  /** Somebody waits, or nobody does (any longer). */
  backlog(waiting: boolean, nowMs: number): void {
    if (waiting === (this.#sinceMs !== undefined)) return;
    this.#busyMs += this.#unaccountedMs(nowMs);
    this.#sinceMs = waiting ? nowMs : undefined;
  }

  /** One of those who waited was served. */
  turn(nowMs: number): void {
    const keep = 1 - 1 / memoryTurns;
    this.#turns = this.#turns * keep + 1;
    this.#busyMs = this.#busyMs * keep + this.#unaccountedMs(nowMs);
    if (this.#sinceMs !== undefined) this.#sinceMs = nowMs;
  }

  /** Mean time from one turn to the next; undefined until the first. */
  intervalMs(nowMs: number): number | undefined {
    return this.#turns === 0 ? undefined : (this.#busyMs + this.#unaccountedMs(nowMs)) / this.#turns;
  }

  #unaccountedMs(nowMs: number): number {
    return this.#sinceMs === undefined ? 0 : nowMs - this.#sinceMs;
  }
}

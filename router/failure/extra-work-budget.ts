import { Decayed } from "./decayed.ts";

/** What counts as of late: half after this time. */
const halfLifeMs = 10_000;

/**
 * Bounds work that is done twice (retries, hedges) to a share of the calls of late and a few more: a deployment whose
 * every call fails gets a fifth more work from its retries, not several times as much. Pure: callers bring the time.
 */
export class ExtraWorkBudget {
  readonly #calls = new Decayed(halfLifeMs);
  readonly #extra = new Decayed(halfLifeMs);

  /** A call began. */
  called(nowMs: number): void {
    this.#calls.add(1, nowMs);
  }

  /**
   * Whether one more piece of extra work may be done, which is spent if so: at most `percent` of the calls of late, and
   * `floor` in any case.
   */
  spend(percent: number, floor: number, nowMs: number): boolean {
    if (this.#extra.at(nowMs) + 1 > (this.#calls.at(nowMs) * percent) / 100 + floor) return false;
    this.#extra.add(1, nowMs);
    return true;
  }
}

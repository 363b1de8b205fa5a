import type { SessionCall } from "./session-call.ts";

/** Ticks from one question to the next: a heartbeat. */
const questionTicks = 2;
/** Ticks that an answer may take: three heartbeats. Counted, so that a pause of this process is no silence of the router. */
const patienceTicks = 6;

export interface RouterWatchOptions {
  /** `onAnswer`: the router has read all that was sent before. */
  readonly ask: (onAnswer: () => void) => void;
  /** Once: it does not answer. */
  readonly onSilent: () => void;
}

/**
 * Watches that a router with calls is there, since its host may vanish without a word, and keeps calls that ended until
 * it has read their ends: another router may have to tell them. A router without calls costs nothing.
 */
export class RouterWatch {
  readonly #options: RouterWatchOptions;
  /** Since the last question. */
  #ended: SessionCall[] = [];
  /** Before it: the router knows of their ends once it answers. */
  #endedBefore: SessionCall[] = [];
  #waits = false;
  /** Since the last question. */
  #ticks = 0;

  constructor(options: RouterWatchOptions) {
    this.#options = options;
  }

  /** Twice a heartbeat. `busy`: calls run. */
  tick(busy: boolean): void {
    this.#ticks += 1;
    if (this.#waits) {
      if (this.#ticks === patienceTicks) this.#options.onSilent();
      return;
    }
    if (this.#ticks < questionTicks || (!busy && this.#ended.length === 0)) return;
    this.#ticks = 0;
    this.#waits = true;
    [this.#endedBefore, this.#ended] = [this.#ended, this.#endedBefore];
    this.#options.ask(() => {
      this.#waits = false;
      for (const call of this.#endedBefore.splice(0)) call.forget();
    });
  }

  /** The call's end is on its way. */
  ended(call: SessionCall): void {
    this.#ended.push(call);
  }

  /** Those whose ends the router may not have; they are the caller's from now on. */
  takeUnheard(): readonly SessionCall[] {
    return [...this.#endedBefore.splice(0), ...this.#ended.splice(0)];
  }
}

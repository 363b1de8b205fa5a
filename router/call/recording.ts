import type { RecordingBudget } from "./recording-budget.ts";

/** Enough for the answer of a short call: it stays within one piece of Node's buffer pool. */
const firstBytes = 512;

/** Why there is no whole recording. `call`, `total`: which limit it outgrew. */
export type NotRecorded = "off" | "call" | "total";

type RecordingState =
  /** The answer's responses, one behind the other. */
  | { readonly kind: "whole"; buffer: Buffer; length: number; readonly ends: number[] }
  | { readonly kind: "none"; readonly why: NotRecorded };

const nothing = Buffer.alloc(0);

/**
 * The responses that one call has relayed, kept so that another replica can go on behind them: copied into one buffer
 * that doubles, within a limit of its own and one for all calls. A recording that reaches a limit is dropped whole,
 * since a part of an answer cannot be continued.
 */
export class Recording {
  readonly #budget: RecordingBudget;
  #state: RecordingState;

  constructor(budget: RecordingBudget, wanted: boolean) {
    this.#budget = budget;
    const kept = wanted && budget.settings.maxMigrationBytes > 0;
    this.#state = kept ? { kind: "whole", buffer: nothing, length: 0, ends: [] } : { kind: "none", why: "off" };
  }

  /** Copies one response. */
  add(bytes: Uint8Array, start: number, end: number): void {
    const state = this.#state;
    if (state.kind === "none") return;
    const length = state.length + (end - start);
    if (length > state.buffer.length && !this.#grow(state, length)) return;
    const { buffer } = state;
    let at = state.length;
    // Most responses are a few dozen bytes, for which a loop costs less than the call of a copy.
    if (end - start <= 64) for (let from = start; from < end; from++) buffer[at++] = bytes[from] as number;
    else buffer.set(bytes.subarray(start, end), at);
    state.length = length;
    state.ends.push(length);
  }

  /** Views of all responses, valid until the next change; why there are none where they are not all here. */
  read(): readonly Uint8Array[] | NotRecorded {
    const state = this.#state;
    if (state.kind === "none") return state.why;
    let start = 0;
    return state.ends.map((end) => {
      const response = state.buffer.subarray(start, end);
      start = end;
      return response;
    });
  }

  /** The answer begins anew. */
  restart(): void {
    const state = this.#state;
    if (state.kind === "none") return;
    this.#budget.give(state.buffer.length);
    // Not overwritten: an earlier start may still wait to leave with views of it.
    this.#state = { kind: "whole", buffer: nothing, length: 0, ends: [] };
  }

  /** Frees its memory; nothing is recorded any more. */
  end(): void {
    this.#drop("off");
  }

  #grow(state: RecordingState & { kind: "whole" }, needed: number): boolean {
    const { maxMigrationBytes } = this.#budget.settings;
    if (needed > maxMigrationBytes) {
      this.#budget.dropped("call");
      this.#drop("call");
      return false;
    }
    const size = Math.min(maxMigrationBytes, Math.max(firstBytes, needed, state.buffer.length * 2));
    if (!this.#budget.take(size - state.buffer.length)) {
      this.#drop("total");
      return false;
    }
    const larger = Buffer.allocUnsafe(size);
    state.buffer.copy(larger, 0, 0, state.length);
    state.buffer = larger;
    return true;
  }

  #drop(why: NotRecorded): void {
    if (this.#state.kind === "none") return;
    this.#budget.give(this.#state.buffer.length);
    this.#state = { kind: "none", why };
  }
}

import { NumberMap } from "#kernel/number-map.ts";
import type { Call } from "./call.ts";

/** The calls in flight, for whoever has to end them all. */
export class OpenCalls {
  readonly #calls = new NumberMap<Call>();
  #next = 0;

  /** The returned number takes the call out again. */
  add(call: Call): number {
    const number = this.#next++;
    this.#calls.set(number, call);
    return number;
  }

  delete(number: number): void {
    this.#calls.delete(number);
  }

  all(): readonly Call[] {
    return this.#calls.values();
  }
}

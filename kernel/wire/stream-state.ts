/** RFC 9113, 5.1, for streams that exist: an idle one has no object, and none is reserved, for nothing is pushed. */
export type StreamState =
  | { readonly kind: "open"; readonly sends: true; readonly receives: true }
  | { readonly kind: "half-closed (local)"; readonly sends: false; readonly receives: true }
  | { readonly kind: "half-closed (remote)"; readonly sends: true; readonly receives: false }
  | { readonly kind: "closed"; readonly sends: false; readonly receives: false };

export const openState: StreamState = { kind: "open", sends: true, receives: true };
const halfClosedLocal: StreamState = { kind: "half-closed (local)", sends: false, receives: true };
const halfClosedRemote: StreamState = { kind: "half-closed (remote)", sends: true, receives: false };
const closed: StreamState = { kind: "closed", sends: false, receives: false };

export function afterStreamEvent(state: StreamState, event: "local end" | "remote end" | "reset"): StreamState {
  switch (event) {
    case "local end":
      return state.receives ? halfClosedLocal : closed;
    case "remote end":
      return state.sends ? halfClosedRemote : closed;
    case "reset":
      return closed;
  }
}

/** How a stream that is gone ended, as far as late frames on it are concerned. */
export type Closing = "ended" | "reset by peer" | "reset by us";

/** Remembered streams, more than are usually answered early at once. Older ones count as never opened. */
const remembered = 1_024;

/** The latest closed streams, in bounded memory. */
export class ClosedStreams {
  /** Filled as needed: most connections see few streams. */
  readonly #ids: number[] = [];
  readonly #closings: Closing[] = [];

  add(id: number, closing: Closing): void {
    const slot = (id >>> 1) % remembered;
    this.#ids[slot] = id;
    this.#closings[slot] = closing;
  }

  get(id: number): Closing | undefined {
    const slot = (id >>> 1) % remembered;
    return this.#ids[slot] === id ? this.#closings[slot] : undefined;
  }
}

import type { CallEnd, StartCall } from "#gen/helixmesh/link/v1/link_pb.ts";
import type { MeshError } from "#kernel/mesh-error.ts";
import type { KeptBytes } from "./kept-bytes.ts";

/** A call that runs on behalf of a link. */
export interface RunningCall {
  /** Stops it within one step; its end still comes through the sink. `error` is what the end says. Idempotent. */
  cancel(error: MeshError): void;
  /** Its router is gone and it goes on: writes down what it used so far. Absent where it cannot outlive its link. */
  orphan?(): void;
  /** A router has taken it up: it accounts for the whole again. */
  adopt?(): void;
  /** Completion tokens that other nodes generated of it before. */
  readonly tokensElsewhere?: number;
}

/** Where a running call delivers. Nothing may come after `end`; `end` comes exactly once, on every path. */
export interface CallSink {
  push(responses: readonly Uint8Array[], completionTokens: number): void;
  end(end: CallEnd): void;
}

/** Whoever has a call: the session of its link, or nobody but the calls that are held. It has one owner at a time. */
export interface CallOwner {
  /** The sum of `completionTokens` is what was generated for `responses`. */
  onResponses(call: SessionCall, responses: readonly Uint8Array[], completionTokens: number): void;
  onEnd(call: SessionCall, end: CallEnd): void;
  /** It has more responses than may be kept: it cannot be resumed any more. */
  onForgotten(call: SessionCall): void;
  /** Another owner has it from now on, which hears all that comes of it. */
  onTaken(call: SessionCall): void;
}

/** All that a call said. */
export interface Said {
  readonly responses: readonly Uint8Array[];
  /** Generated for them, here and elsewhere. */
  readonly completionTokens: number;
  readonly end: CallEnd | undefined;
}

/** What a response costs beyond its bytes: the array and its buffer, as V8 makes them. */
const overheadBytes = 200;

/**
 * One call of a link. Keeps its responses, by reference, as long as their sum allows: so that a router that takes it up
 * after another one died can tell its client the whole.
 */
export class SessionCall implements CallSink {
  readonly start: StartCall;
  number: number;
  running: RunningCall | undefined;
  /** More of it waits than may: nothing more is sent but its end. */
  full = false;
  #owner: CallOwner;
  readonly #budget: KeptBytes;
  #kept: Uint8Array[] | undefined;
  #keptBytes = 0;
  /** Generated here. */
  #tokens = 0;
  #cancelled = false;
  #end: CallEnd | undefined;

  constructor(start: StartCall, owner: CallOwner, budget: KeptBytes) {
    this.start = start;
    this.number = start.number;
    this.#owner = owner;
    this.#budget = budget;
    if (!budget.isKept(start)) return;
    this.#kept = [];
    this.#keep(start.relayed);
  }

  /** All its responses are here, and nobody cancelled it. */
  get resumable(): boolean {
    return this.#kept !== undefined && !this.#cancelled && this.running?.orphan !== undefined;
  }

  push(responses: readonly Uint8Array[], completionTokens: number): void {
    if (this.#end) return;
    this.#tokens += completionTokens;
    this.#owner.onResponses(this, responses, completionTokens);
    if (this.#kept) this.#keep(responses);
  }

  end(end: CallEnd): void {
    if (this.#end) return;
    this.#end = end;
    this.#owner.onEnd(this, end);
  }

  cancel(error: MeshError): void {
    this.#cancelled = true;
    this.running?.cancel(error);
  }

  /** Its link is gone; `owner` hears what comes until it is adopted. */
  orphan(owner: CallOwner): void {
    this.#owner = owner;
    if (!this.#end) this.running?.orphan?.();
  }

  /** From now on it is `number` on a link that has to tell all that the call said. Only for what is resumable. */
  adopt(owner: CallOwner, number: number): Said {
    this.#owner.onTaken(this);
    this.#owner = owner;
    this.number = number;
    this.running?.adopt?.();
    const { tokensElsewhere = 0 } = this.running ?? {};
    return { responses: this.#kept ?? [], completionTokens: this.#tokens + tokensElsewhere, end: this.#end };
  }

  /** Frees what it kept. */
  forget(): void {
    this.#kept = undefined;
    this.#budget.give(this.#keptBytes);
    this.#keptBytes = 0;
  }

  #keep(responses: readonly Uint8Array[]): void {
    for (const response of responses) {
      const bytes = response.length + overheadBytes;
      if (!this.#budget.take(bytes, this.#keptBytes)) {
        this.forget();
        return this.#owner.onForgotten(this);
      }
      this.#keptBytes += bytes;
      this.#kept?.push(response);
    }
  }
}

import { create } from "@bufbuild/protobuf";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { type HeldCall, HeldCallSchema } from "#gen/helixmesh/link/v1/link_pb.ts";
import type { Clock, Timer } from "#kernel/clock.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import type { Metrics } from "#kernel/metrics.ts";
import { callKey, heldCall } from "./call-finder.ts";
import { KeptBytes, type KeptLimits } from "./kept-bytes.ts";
import type { CallOwner, SessionCall } from "./session-call.ts";

export interface HeldLimits extends KeptLimits {
  /** How long a call is held; 0 holds none. */
  readonly windowMs: number;
  /** Calls that are held at once. */
  readonly calls: number;
}

export interface HeldCallsOptions {
  readonly limits: HeldLimits;
  /** A call is held from now on, or no longer. */
  readonly onChange: (news: HeldCall) => void;
  readonly clock: Clock;
  readonly metrics: Metrics;
}

/** Why a call is held no longer. */
type Outcome = "resumed" | "expired" | "router_back" | "replaced" | "too_long" | "drained";

interface Held {
  readonly call: SessionCall;
  /** Process of the router that began it. */
  readonly instanceId: string;
  readonly timer: Timer;
}

/**
 * Calls whose router may have died (proto/helixmesh/link/v1, LinkService.Connect): they go on, and any router may take
 * one up until its time is over, which cancels it. Nobody pays for what is generated meanwhile and not taken up.
 */
export class HeldCalls implements CallOwner {
  readonly kept: KeptBytes;
  readonly #options: HeldCallsOptions;
  readonly #held = new Map<string, Held>();
  readonly #now;
  readonly #ended;
  readonly #bounds;
  #closed = false;

  constructor(options: HeldCallsOptions) {
    const { limits, metrics } = options;
    this.#options = options;
    this.#now = metrics.gauge("link_held_calls", "Calls whose router is gone and that may be resumed.");
    this.#ended = metrics.counter("link_held_calls_ended_total", "Calls that are held no longer, by why.", ["outcome"]);
    this.#bounds = metrics.counter(
      "link_hold_bound_reached_total",
      "Calls that cannot be resumed should their router die, by the bound that was reached.",
      ["bound"],
    );
    const callBytes = limits.windowMs === 0 ? 0 : limits.callBytes;
    this.kept = new KeptBytes({ ...limits, callBytes }, (bound) => this.#bounds.inc({ bound }));
    this.#now.set(0);
  }

  /** What a router that connects has to know. */
  get list(): HeldCall[] {
    return this.calls.map(heldCall);
  }

  get calls(): SessionCall[] {
    return [...this.#held.values()].map(({ call }) => call);
  }

  /** Takes a call of a link that broke. False: it cannot be resumed, and the caller ends it. */
  hold(call: SessionCall, instanceId: string): boolean {
    const { limits, clock, onChange } = this.#options;
    if (this.#closed || instanceId === "" || !call.resumable) return false;
    const key = callKey(call.start);
    const other = this.#held.get(key);
    if (other) {
      if (other.call.start.attempt > call.start.attempt) return false;
      this.#drop(key, other, "replaced");
    } else if (this.#held.size >= limits.calls) {
      this.#bounds.inc({ bound: "held_calls" });
      return false;
    }
    const timer = clock.setTimer(limits.windowMs, () => this.#release(key, "expired"), { unref: true });
    this.#held.set(key, { call, instanceId, timer });
    this.#now.set(this.#held.size);
    call.orphan(this);
    onChange(heldCall(call));
    return true;
  }

  /** A process that is alive has moved or failed its calls itself. */
  routerBack(instanceId: string): void {
    for (const [key, held] of this.#held) if (held.instanceId === instanceId) this.#drop(key, held, "router_back");
  }

  /** Ends all of them; none is held any more. */
  close(): void {
    this.#closed = true;
    for (const [key, held] of this.#held) this.#drop(key, held, "drained");
  }

  onResponses(): void {}

  onEnd(): void {}

  onForgotten(call: SessionCall): void {
    this.#release(callKey(call.start), "too_long");
  }

  onTaken(call: SessionCall): void {
    const key = callKey(call.start);
    const held = this.#held.get(key);
    if (held) this.#leave(key, held, "resumed");
  }

  #release(key: string, outcome: Outcome): void {
    const held = this.#held.get(key);
    if (held) this.#drop(key, held, outcome);
  }

  #drop(key: string, held: Held, outcome: Outcome): void {
    this.#leave(key, held, outcome);
    held.call.forget();
    held.call.cancel(new MeshError(Reason.CANCELLED, "The router of the call is gone, and none took it up."));
  }

  #leave(key: string, held: Held, outcome: Outcome): void {
    held.timer.cancel();
    this.#held.delete(key);
    this.#now.set(this.#held.size);
    this.#ended.inc({ outcome });
    const { callId, keyId } = held.call.start;
    this.#options.onChange(create(HeldCallSchema, { callId, keyId, released: true }));
  }
}

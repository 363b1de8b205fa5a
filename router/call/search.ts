import { unreachable } from "#kernel/invariant.ts";
import type { Timer } from "#kernel/clock.ts";
import type { MeshError } from "#kernel/mesh-error.ts";
import type { Picked } from "../routing/routes.ts";
import type { CallParts, CallSpec } from "./call-parts.ts";
import { type Place, Placement } from "./placement.ts";
import type { Waiter } from "./wait-notices.ts";

/** Exactly one of them for each search that is not stopped, maybe before it has begun to wait. */
export interface SearchEvents {
  onFound(picked: Picked): void;
  onGivenUp(error: MeshError): void;
}

interface Waiting {
  readonly sinceMs: number;
  /** Because no replica was ready when it began to wait. */
  readonly cold: boolean;
  /** In whose queue; undefined while it waits for any replica of its model. */
  readonly deployment: string | undefined;
  readonly stop: () => void;
}

/** A call's search for a replica: where it may go, its turn in the queue, and the wait for one that is ready. */
export class Search {
  readonly #parts: CallParts;
  readonly #spec: CallSpec;
  readonly #deadlineMs: number;
  readonly #events: SearchEvents;
  readonly #placement: Placement;
  #waiting: Waiting | undefined;
  #waitedMs = 0;
  /** Made at the first wait of a call whose client wants to hear of it. */
  #waiter: Waiter | undefined;

  /** `deadlineMs` on the monotonic clock. */
  constructor(parts: CallParts, spec: CallSpec, deadlineMs: number, events: SearchEvents) {
    this.#parts = parts;
    this.#spec = spec;
    this.#deadlineMs = deadlineMs;
    this.#events = events;
    this.#placement = new Placement(parts, spec);
  }

  /** Time without a ready replica. */
  get waitedMs(): number {
    return this.#waitedMs;
  }

  /** What it waits for, as a sentence for people with a space before; empty while it does not wait. */
  get why(): string {
    const waiting = this.#waiting;
    if (!waiting) return "";
    const { model } = this.#spec;
    const { text } = this.#parts.rooms.situation(model, waiting.deployment);
    const waitedMs = this.#parts.clock.monotonicMs() - waiting.sinceMs;
    return ` It has waited ${Math.round(waitedMs)} ms for a replica of ${JSON.stringify(model)} (${text}).`;
  }

  /** For a call that has been nowhere. */
  begin(): void {
    const { health, rooms } = this.#parts;
    const { deployment, model } = this.#spec;
    const place = this.#placement.choose();
    if (deployment !== undefined) return this.#take(place);
    const line = place.kind === "dispatch" ? place.picked.deployment : rooms.lineOf(model);
    health.called(line);
    if (place.kind === "refuse") this.#events.onGivenUp(place.error);
    else this.#enter(line, place);
  }

  /** The attempt at `picked` came to nothing. */
  failed(picked: Picked, error: MeshError): void {
    this.#placement.failed(picked, error);
  }

  /** For a call whose attempt at `picked` failed. */
  again(picked: Picked, error: MeshError): void {
    this.failed(picked, error);
    this.#take(this.#placement.choose());
  }

  /** As `again`, for a call that has to go on where the attempt stopped. */
  onward(picked: Picked, error: MeshError): void {
    this.#placement.pin(picked);
    this.again(picked, error);
  }

  /** Another replica of the same deployment, for a call that waits for the first token of `picked`. */
  second(picked: Picked): Picked | undefined {
    return this.#placement.second(picked);
  }

  /** The replica that was found did not take it. */
  wait(): void {
    this.#wait(undefined);
  }

  stop(): void {
    this.#leave();
  }

  /** Waits for its turn in the deployment's queue; at a turn that comes at once `place` is where it goes. */
  #enter(deployment: string, place: Place | undefined): void {
    const { queues, rooms, clock } = this.#parts;
    const { context, priority, request } = this.#spec;
    let atOnce = place;
    const ask = {
      deployment,
      tenant: context.principal.projectId,
      priority,
      deadlineMs: this.#deadlineMs,
      bytes: request.length,
      free: place?.kind === "dispatch" && !place.picked.saturated,
    };
    const ticket = queues.enter(ask, {
      onTurn: () => {
        this.#leave();
        if (atOnce) this.#take(atOnce);
        else this.#turn(deployment);
      },
      onRefused: (error) => {
        this.#leave();
        this.#events.onGivenUp(error);
      },
    });
    atOnce = undefined;
    if (!ticket) return;
    const { stop } = this.#limitColdWait(deployment);
    this.#waiting = {
      sinceMs: clock.monotonicMs(),
      cold: rooms.of(deployment) === "cold",
      deployment,
      stop() {
        stop();
        ticket.leave();
      },
    };
    this.#tellOf({ deployment, ahead: () => ticket.ahead() });
  }

  /** It waited for `deployment`; where that is not ready another one may be, which has a queue of its own. */
  #turn(deployment: string): void {
    const place = this.#placement.choose(deployment);
    const moves = place.kind === "dispatch" && place.picked.saturated && place.picked.deployment !== deployment;
    if (moves) this.#enter(place.picked.deployment, place);
    else this.#take(place);
  }

  /** The queue bounds how long a call waits for room; how long it waits for any ready replica is bounded here. */
  #limitColdWait(deployment: string): { readonly stop: () => void } {
    const { clock, settings, rooms } = this.#parts;
    let timer: Timer;
    const watch = (leftMs: number): void => {
      timer = clock.setTimer(leftMs, () => {
        if (rooms.of(deployment) === "cold") this.#giveUp();
        else watch(settings.readyWaitMs);
      });
    };
    watch(Math.max(0, settings.readyWaitMs - this.#waitedMs));
    return { stop: () => timer.cancel() };
  }

  #take(place: Place): void {
    switch (place.kind) {
      case "dispatch":
        return this.#events.onFound(place.picked);
      case "queue":
        return this.#enter(place.deployment, undefined);
      case "wait":
        return this.#wait(place.retryInMs);
      case "refuse":
        return this.#events.onGivenUp(place.error);
      default:
        unreachable(place);
    }
  }

  /** Until something changes on the links, `retryInMs` passed, or the time for waiting is spent. */
  #wait(retryInMs: number | undefined): void {
    const { pool, clock, settings } = this.#parts;
    const leftMs = settings.readyWaitMs - this.#waitedMs;
    if (leftMs <= 0) return this.#events.onGivenUp(this.#placement.exhausted(this.#waitedMs));
    const resume = (): void => {
      if (this.#leave()) this.#take(this.#placement.choose());
    };
    const timers = [
      clock.setTimer(leftMs, () => this.#giveUp()),
      ...(retryInMs === undefined ? [] : [clock.setTimer(retryInMs, resume)]),
    ];
    const stopListening = pool.onChange(resume);
    this.#waiting = {
      sinceMs: clock.monotonicMs(),
      cold: true,
      deployment: undefined,
      stop() {
        stopListening();
        for (const timer of timers) timer.cancel();
      },
    };
    this.#tellOf(undefined);
  }

  /** The wait that begins, to a client that asked. */
  #tellOf(queued: Waiter["queued"]): void {
    const { sink, model } = this.#spec;
    const tell = sink.wait;
    if (!tell) return;
    this.#waiter ??= { model, tell, queued, dueMs: Number.NEGATIVE_INFINITY };
    this.#waiter.queued = queued;
    this.#parts.notices.begin(this.#waiter);
  }

  #giveUp(): void {
    if (this.#leave()) this.#events.onGivenUp(this.#placement.exhausted(this.#waitedMs));
  }

  /** False when it was not waiting. */
  #leave(): boolean {
    const waiting = this.#waiting;
    if (!waiting) return false;
    this.#waiting = undefined;
    waiting.stop();
    if (this.#waiter) this.#parts.notices.end(this.#waiter);
    if (waiting.cold) this.#waitedMs += this.#parts.clock.monotonicMs() - waiting.sinceMs;
    return true;
  }
}

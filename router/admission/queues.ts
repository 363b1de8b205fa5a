import type { Clock, Timer } from "#kernel/clock.ts";
import type { MeshError } from "#kernel/mesh-error.ts";
import type { Metrics } from "#kernel/metrics.ts";
import type { Room } from "../routing/fill.ts";
import { Queue, type QueueBounds, type QueueEntry } from "./queue.ts";
import * as errors from "./queue-errors.ts";
import type { Situation } from "./rooms.ts";
import { type QueueMetrics, type QueueOutcome, queueMetrics } from "./queue-metrics.ts";

export interface QueuesOptions {
  readonly bounds: QueueBounds;
  readonly room: (deployment: string) => Room;
  /** Where its model's replicas are, for people; asked when a call is refused while none is ready. */
  readonly replicas: (deployment: string) => Pick<Situation, "text" | "stageLeftMs">;
  readonly clock: Clock;
  readonly metrics: Metrics;
}

export interface Ask {
  readonly deployment: string;
  /** Who shares: the project. */
  readonly tenant: string;
  /** 0 (background) to 9 (most urgent). */
  readonly priority: number;
  /** Monotonic milliseconds. */
  readonly deadlineMs: number;
  /** Of the request. */
  readonly bytes: number;
  /** A replica with room has been found for it already. */
  readonly free: boolean;
}

/** One of them, once, unless the call leaves before; maybe before `enter` returns, which then returns nothing. */
export interface AskEvents {
  /** A replica has room. Whoever does not take it in this same turn of the event loop leaves it to the next in line. */
  onTurn(): void;
  /** OVERLOADED with retry advice, or DEADLINE_EXCEEDED. */
  onRefused(error: MeshError): void;
}

export interface Ticket {
  /** The call waits no longer. Harmless after its turn. */
  leave(): void;
  /** About how many have their turn before it as the queue stands now. */
  ahead(): number | undefined;
}

/** Bytes of a prompt that make one token, near enough for sharing. */
const bytesPerToken = 4;

interface Waiting extends QueueEntry {
  readonly events: AskEvents;
  readonly enteredMs: number;
  waits: boolean;
}

interface Line {
  readonly queue: Queue<Waiting>;
  timer: { readonly atMs: number; readonly timer: Timer } | undefined;
  /** Turns are being given: what happens meanwhile is seen when that is done. */
  giving: boolean;
  promotions: number;
  /** Time to the first token at its shortest of late; 0 until measured. */
  minServiceMs: number;
}

/**
 * The queues of all deployments, and what moves them: `freed` when a call of the deployment ended or a load came,
 * `changed` when replicas came or went. Nothing polls; the one timer of a queue is for the next wait that has to end. A
 * call that finds room and nobody waiting passes without a queue.
 */
export class Queues {
  readonly #options: QueuesOptions;
  readonly #metrics: QueueMetrics;
  readonly #lines = new Map<string, Line>();

  constructor(options: QueuesOptions) {
    this.#options = options;
    this.#metrics = queueMetrics(options.metrics);
  }

  /** Undefined when the call waits for nothing: it had its turn, or was refused. */
  enter(ask: Ask, events: AskEvents): Ticket | undefined {
    const { clock, room, bounds, replicas } = this.#options;
    const { deployment, tenant, deadlineMs } = ask;
    const line = this.#line(deployment);
    const { queue, minServiceMs } = line;
    const promptTokens = Math.ceil(ask.bytes / bytesPerToken);
    const state = ask.free ? "free" : room(deployment);
    if (state === "free" && queue.size === 0) {
      queue.charge(tenant, promptTokens);
      events.onTurn();
      return undefined;
    }
    const nowMs = clock.monotonicMs();
    const entry: Waiting = { ...ask, promptTokens, minServiceMs, events, enteredMs: nowMs, waits: true };
    queue.setOpen(state !== "cold", nowMs);
    const offer = queue.offer(entry, nowMs);
    const why = { deployment, room: state, drainMs: queue.drainMs(nowMs), replicas };
    switch (offer.kind) {
      case "full":
        this.#metrics.ended(deployment, "full", 0);
        events.onRefused(errors.queueFull(offer.bound, bounds, why));
        return undefined;
      case "too-late":
        this.#metrics.ended(deployment, "late", 0);
        events.onRefused(errors.turnTooLate(offer.waitMs, deadlineMs - nowMs, why));
        return undefined;
      case "queued":
        if (offer.displaced) this.#refuse(deployment, offer.displaced, "displaced", errors.displaced(why));
    }
    if (state === "free") this.#give(deployment, line);
    else this.#settle(deployment, line);
    if (!entry.waits) return undefined;
    return { leave: () => this.#leave(deployment, line, entry), ahead: () => line.queue.ahead(entry) };
  }

  /** A call of the deployment ended, or a load of one of its replicas came: maybe there is room. */
  freed(deployment: string): void {
    const line = this.#lines.get(deployment);
    if (line && line.queue.size > 0) this.#give(deployment, line);
  }

  /** Replicas came, went, or changed their state. */
  changed(): void {
    for (const [deployment, line] of this.#lines) if (line.queue.size > 0) this.#give(deployment, line);
  }

  /** Calls that wait, in all queues. */
  get waiting(): number {
    let waiting = 0;
    for (const { queue } of this.#lines.values()) waiting += queue.size;
    return waiting;
  }

  /** Tokens generated for a tenant. */
  charge(deployment: string, tenant: string, tokens: number): void {
    this.#line(deployment).queue.charge(tenant, tokens);
  }

  /** How long a call took from its turn to its first token. */
  served(deployment: string, firstTokenMs: number): void {
    const line = this.#line(deployment);
    // Grows slowly, so that a deployment that became slower is found out.
    const before = line.minServiceMs === 0 ? Number.POSITIVE_INFINITY : line.minServiceMs * 1.01;
    line.minServiceMs = Math.min(before, firstTokenMs);
  }

  /** Forgets the deployments that are gone; whoever waits for one waits on, until its own limits. */
  keep(deployments: { has(name: string): boolean }): void {
    for (const [deployment, line] of this.#lines) {
      if (deployments.has(deployment) || line.queue.size > 0) continue;
      line.timer?.timer.cancel();
      this.#lines.delete(deployment);
      this.#metrics.forget(deployment);
    }
  }

  #line(deployment: string): Line {
    let line = this.#lines.get(deployment);
    if (!line) {
      const queue = new Queue<Waiting>(this.#options.bounds);
      line = { queue, timer: undefined, giving: false, promotions: 0, minServiceMs: 0 };
      this.#lines.set(deployment, line);
    }
    return line;
  }

  /** Ends the waits that are over and gives turns while there is room. */
  #give(deployment: string, line: Line): void {
    if (line.giving) return;
    line.giving = true;
    const { clock, room } = this.#options;
    const { queue } = line;
    // Whoever cannot use the turn may enter again, but is not asked again before something happens.
    for (let turns = queue.size; turns > 0; turns--) {
      const nowMs = clock.monotonicMs();
      const state = room(deployment);
      queue.setOpen(state !== "cold", nowMs);
      this.#expire(deployment, line, state, nowMs);
      const next = state === "free" ? queue.take(nowMs) : undefined;
      if (!next) break;
      this.#metrics.ended(deployment, "turn", nowMs - next.enteredMs);
      next.waits = false;
      next.events.onTurn();
    }
    line.giving = false;
    this.#settle(deployment, line);
  }

  #expire(deployment: string, { queue }: Line, room: Room, nowMs: number): void {
    for (const { entry, kind } of queue.expire(nowMs)) {
      const why = { deployment, room, drainMs: queue.drainMs(nowMs), replicas: this.#options.replicas };
      const error =
        kind === "waited"
          ? errors.waitedTooLong(this.#options.bounds, why)
          : errors.deadlineUnreachable(nowMs - entry.enteredMs, entry.deadlineMs - nowMs, why);
      this.#refuse(deployment, entry, kind, error);
    }
  }

  #refuse(deployment: string, entry: Waiting, outcome: QueueOutcome, error: MeshError): void {
    this.#metrics.ended(deployment, outcome, 0);
    entry.waits = false;
    entry.events.onRefused(error);
  }

  #leave(deployment: string, line: Line, entry: Waiting): void {
    if (!line.queue.leave(entry, this.#options.clock.monotonicMs())) return;
    this.#metrics.ended(deployment, "left", 0);
    if (!line.giving) this.#settle(deployment, line);
  }

  /** Gauges and the timer as the queue is now. */
  #settle(deployment: string, line: Line): void {
    const { clock } = this.#options;
    const { queue } = line;
    this.#metrics.waiting(deployment, queue.size, queue.bytes);
    if (queue.promotions > line.promotions) this.#metrics.promoted(deployment, queue.promotions - line.promotions);
    line.promotions = queue.promotions;
    const nowMs = clock.monotonicMs();
    const atMs = queue.nextMs(nowMs);
    // One that fires too early finds nothing to do and is set anew.
    if (atMs !== undefined && line.timer && line.timer.atMs <= atMs) return;
    line.timer?.timer.cancel();
    line.timer = undefined;
    if (atMs === undefined) return;
    const timer = clock.setTimer(Math.max(1, Math.ceil(atMs - nowMs)), () => {
      line.timer = undefined;
      this.#give(deployment, line);
    });
    line.timer = { atMs, timer };
  }
}

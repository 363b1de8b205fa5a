import { create } from "@bufbuild/protobuf";
import { type Waiting, WaitingSchema } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import type { Clock } from "#kernel/clock.ts";
import type { Counter } from "#kernel/counter.ts";
import type { Metrics } from "#kernel/metrics.ts";
import type { Rooms, Situation } from "../admission/rooms.ts";

/** A call whose client wants to hear what it waits for; the same through all its waits. */
export interface Waiter {
  readonly model: string;
  /** False: not told, since it has something unread. */
  readonly tell: (waiting: Waiting) => boolean;
  /** In whose queue it stands, and about how many have their turn before it; undefined while it stands in none. */
  queued: { readonly deployment: string; readonly ahead: () => number | undefined } | undefined;
  /** When it is told next at the soonest, on the monotonic clock. */
  dueMs: number;
}

/** One client is told at most once in this time, milliseconds. */
const gapMs = 1_000;
/** A wait that is over sooner is not worth a word. */
const tickMs = 250;

/**
 * Tells the clients of waiting calls what they wait for. One timer for all of them, which runs while there are any; where
 * a model's replicas are is looked up once for all who are told at the same time.
 */
export class WaitNotices {
  readonly #clock: Clock;
  readonly #rooms: Pick<Rooms, "situation">;
  readonly #waiters = new Set<Waiter>();
  readonly #notices: Counter<"result">;
  #ticks = false;

  constructor(clock: Clock, rooms: Pick<Rooms, "situation">, metrics: Metrics) {
    this.#clock = clock;
    this.#rooms = rooms;
    this.#notices = metrics.counter(
      "router_wait_notices_total",
      "Words to waiting clients that asked for them: sent, or dropped since the client had something unread.",
      ["result"],
    );
  }

  /** From now on, until `end`. */
  begin(waiter: Waiter): void {
    this.#waiters.add(waiter);
    if (!this.#ticks) this.#tickSoon();
  }

  /** Harmless for one that does not wait. */
  end(waiter: Waiter): void {
    this.#waiters.delete(waiter);
  }

  #tickSoon(): void {
    this.#ticks = true;
    const tick = (): void => {
      this.#ticks = false;
      this.#tellAll();
      if (this.#waiters.size > 0) this.#tickSoon();
    };
    this.#clock.setTimer(tickMs, tick, { unref: true });
  }

  #tellAll(): void {
    const nowMs = this.#clock.monotonicMs();
    const looks = new Map<string, Situation>();
    for (const waiter of this.#waiters) {
      if (nowMs < waiter.dueMs) continue;
      waiter.dueMs = nowMs + gapMs;
      const { model, queued } = waiter;
      const place = JSON.stringify([model, queued?.deployment]);
      const situation = looks.get(place) ?? this.#rooms.situation(model, queued?.deployment);
      looks.set(place, situation);
      const isSent = waiter.tell(waitingOf(situation, queued?.ahead()));
      this.#notices.inc({ result: isSent ? "sent" : "dropped" });
    }
  }
}

function waitingOf({ text, state, progress }: Situation, callsAhead: number | undefined): Waiting {
  const waiting = create(WaitingSchema, { reason: text, state });
  if (progress !== undefined) waiting.progress = progress;
  if (callsAhead !== undefined) waiting.callsAhead = callsAhead;
  return waiting;
}

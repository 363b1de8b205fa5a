import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import type { QueueBounds } from "./queue.ts";
import type { Room } from "../routing/fill.ts";
import type { Situation } from "./rooms.ts";

/** Bounds of the advice when to come back: soon enough to be useful, and never at once. */
const leastRetryMs = 1_000;
const mostRetryMs = 300_000;

/** Whole seconds, since that is what the header can say. */
export function retryAfterMs(waitMs: number): number {
  return Math.ceil(Math.min(mostRetryMs, Math.max(leastRetryMs, waitMs)) / 1_000) * 1_000;
}

/** Why a call got no turn, for its caller. `drainMs`: how long the queue takes as it drained lately, if that is known. */
export interface Refused {
  readonly deployment: string;
  readonly room: Room;
  readonly drainMs: number | undefined;
  /** Where its model's replicas are. */
  readonly replicas: (deployment: string) => Pick<Situation, "text" | "stageLeftMs">;
}

export function queueFull(bound: "entries" | "bytes", { maxEntries, maxBytes }: QueueBounds, why: Refused): MeshError {
  const limit = bound === "entries" ? `${maxEntries} waiting calls` : `${maxBytes} bytes of waiting requests`;
  const isCold = why.room === "cold";
  const state = isCold ? `none of its replicas is ready (${where(why)})` : "all its replicas are busy";
  return overloaded(`${state}, and the queue is full (${limit})`, why, limit);
}

export function displaced(why: Refused): MeshError {
  return overloaded("the queue is full, and a call with a better claim took this one's place", why);
}

export function waitedTooLong({ maxWaitMs }: QueueBounds, why: Refused): MeshError {
  const limit = `${maxWaitMs} ms`;
  return overloaded(`all its replicas were busy for ${limit}, the longest that a call waits`, why, limit);
}

/** At the door: it has waited for nothing yet, and later there may be room. */
export function turnTooLate(waitMs: number, leftMs: number, why: Refused): MeshError {
  const what = `this call's turn would come in about ${seconds(waitMs)}, after its deadline in ${seconds(leftMs)}`;
  return overloaded(`all its replicas are busy, and ${what}`, { ...why, drainMs: waitMs });
}

/** In the queue: the time that the caller gave is as good as spent. */
export function deadlineUnreachable(waitedMs: number, leftMs: number, why: Refused): MeshError {
  const deployment = JSON.stringify(why.deployment);
  const what =
    why.room === "cold" ? `a ready replica of ${deployment} (${where(why)})` : `a replica of ${deployment} with room`;
  const wait = `the call waited ${seconds(waitedMs)} for ${what}`;
  return new MeshError(
    Reason.DEADLINE_EXCEEDED,
    `The deadline cannot be met: ${wait}, and the ${seconds(leftMs)} left are too short. Allow more time or try later.`,
  );
}

function where({ deployment, replicas }: Refused): string {
  return replicas(deployment).text;
}

function overloaded(what: string, { deployment, room, drainMs, replicas }: Refused, limit?: string): MeshError {
  const coldMs = room === "cold" ? (replicas(deployment).stageLeftMs ?? 0) : 0;
  const afterMs = retryAfterMs(coldMs + (drainMs ?? 0));
  const message = `${JSON.stringify(deployment)} is overloaded: ${what}. Try again in ${seconds(afterMs)}.`;
  return new MeshError(Reason.OVERLOADED, message, { retryAfterMs: afterMs, ...(limit !== undefined && { limit }) });
}

function seconds(ms: number): string {
  return ms < 1_000 ? `${Math.max(0, Math.round(ms))} ms` : `${Math.round(ms / 100) / 10} s`;
}

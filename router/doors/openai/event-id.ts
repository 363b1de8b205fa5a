import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import type { Exchange } from "./exchange.ts";

/** What a client says by sending back, as `Last-Event-ID`, the id of the last event that it has of a broken stream. */
export interface LastEvent {
  readonly callId: string;
  /** Unix seconds: the `created` of the stream's chunks. */
  readonly created: number;
  /** Which event of the stream it is, from 1. */
  readonly count: number;
}

/** How the events of one stream are told apart. */
export interface EventIds {
  /** Unix seconds. */
  readonly created: number;
  /** The id of an event is this and its count, from 1; undefined where events have none. */
  readonly idPrefix: string | undefined;
  /** Events that the client has: they are not sent again. */
  readonly had: number;
}

/**
 * https://html.spec.whatwg.org/#the-last-event-id-header: a client that repeats its request with the last id gets what
 * comes after it. Only for streams of one call: several have no order that would be the same again.
 * @throws MeshError INVALID_REQUEST when another request is repeated so
 */
export function eventIds({ context, deps, lastEvent }: Exchange, stream: boolean, calls: number): EventIds {
  const resumable = stream && calls === 1;
  if (lastEvent && !resumable) {
    throw invalid("resumes streams of one prompt; send the request as it was, or without it.");
  }
  const created = lastEvent?.created ?? Math.floor(deps.clock.nowMs() / 1000);
  const idPrefix = resumable ? `${context.callId}:${created.toString(36)}:` : undefined;
  return { created, idPrefix, had: lastEvent?.count ?? 0 };
}

/** @throws MeshError INVALID_REQUEST for what is no id of ours */
export function readLastEventId(header: string | readonly string[] | undefined): LastEvent | undefined {
  if (header === undefined || header === "") return undefined;
  const match = /^([\x20-\x7e]{1,128}):([0-9a-z]{1,8}):([0-9]{1,9})$/.exec(header.toString());
  const [, callId = "", created = "", count = ""] = match ?? [];
  if (!match) throw invalid("is no id of an event of these streams; send the one that the last event had, or none.");
  return { callId, created: Number.parseInt(created, 36), count: Number(count) };
}

function invalid(what: string): MeshError {
  return new MeshError(Reason.INVALID_REQUEST, `last-event-id ${what}`, { field: "last-event-id" });
}

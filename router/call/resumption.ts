import { createHash } from "node:crypto";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import type { Timer } from "#kernel/clock.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import type { LinkResume } from "../link/call-queue.ts";
import type { Picked } from "../routing/routes.ts";
import type { CallParts, CallSpec } from "./call-parts.ts";
import type { CallContext } from "./calls.ts";
import type { Resumable } from "./resumable-calls.ts";

export interface ResumptionEvents {
  /** The call was found. False: its node cannot be asked, and the wait goes on. */
  onFound(held: Resumable): boolean;
  onGivenUp(error: MeshError): void;
}

/**
 * The search for a call whose router died: its client may be back before the agent saw the break, or its word of it is
 * here, so it waits for a while.
 */
export class Resumption {
  readonly #parts: CallParts;
  readonly #context: CallContext;
  readonly #events: ResumptionEvents;
  #timer: Timer | undefined;
  #stopListening = (): void => {};

  constructor(parts: CallParts, context: CallContext, events: ResumptionEvents) {
    this.#parts = parts;
    this.#context = context;
    this.#events = events;
  }

  begin(): void {
    if (this.#look()) return;
    const { resumables, clock, settings } = this.#parts;
    const { callId, principal } = this.#context;
    this.#stopListening = resumables.onHeld(principal.keyId, callId, () => {
      if (this.#look()) this.stop();
    });
    this.#timer = clock.setTimer(settings.resumeWaitMs, () => {
      this.stop();
      this.#events.onGivenUp(notHeld(this.#context));
    });
  }

  stop(): void {
    this.#timer?.cancel();
    this.#stopListening();
  }

  #look(): boolean {
    const { callId, principal } = this.#context;
    const held = this.#parts.resumables.find(principal.keyId, callId);
    return held !== undefined && this.#events.onFound(held);
  }
}

/** A held call's replica, as if it had been picked for it. */
export function pickedAgain({ nodeId, replicaId, model, deployment }: Resumable): Picked {
  return {
    nodeId,
    replicaId,
    model,
    deployment,
    saturated: false,
    routing: undefined,
    explanation: undefined,
    dispatched() {
      throw new Error("invariant violated: a held call is dispatched");
    },
  };
}

export function linkResume({ context, request }: CallSpec, { replicaId }: Resumable): LinkResume {
  const requestSha256 = createHash("sha256").update(request).digest();
  return { callId: context.callId, keyId: context.principal.keyId, replicaId, requestSha256 };
}

/** What an agent says of a resume that it refuses, in the words of the client's protocol. */
export function refusedResume(error: MeshError, context: CallContext): MeshError {
  if (error.reason === Reason.NOT_FOUND) return notHeld(context);
  if (error.reason !== Reason.INVALID_REQUEST) return error;
  const field = headerOf(context);
  const message = `${field} names call ${context.callId}, which began with another request; repeat that one unchanged.`;
  return new MeshError(Reason.INVALID_REQUEST, message, { field });
}

function notHeld(context: CallContext): MeshError {
  const field = headerOf(context);
  const why = "its time to be resumed is over, its router still has it, or this key has no such call";
  const message = `${field} names call ${context.callId}, which no node holds: ${why}. Send the request without it.`;
  return new MeshError(Reason.NOT_FOUND, message, { field });
}

function headerOf({ door }: CallContext): string {
  return door.startsWith("openai") ? "last-event-id" : "x-helixmesh-resume";
}

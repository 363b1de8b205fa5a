import { createHash } from "node:crypto";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import type { Timer } from "#kernel/clock.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import type { LinkResume } from "../link/call-queue.ts";
import type { Picked } from "../routing/routes.ts";
import type { CallParts, CallSpec } from "./call-parts.ts";
import type { CallContext } from "./calls.ts";
import type { CallName, Resumable } from "./resumable-calls.ts";

export interface ResumptionEvents {
  /** The call was found. False: its node cannot be asked, and the wait goes on. */
  onFound(held: Resumable): boolean;
  onGivenUp(error: MeshError): void;
}

/**
 * Nodes that have the call are waited for this long after the first: two may, where it moved or was hedged, and the later
 * attempt has all that the client has.
 */
const choiceMs = 100;

/**
 * The search for a call whose client lost its router. Its node may hold it and have said so; may still take the router
 * for alive, so all nodes are asked; or may say so only when it misses the router, so the call waits for a while.
 */
export class Resumption {
  readonly #parts: CallParts;
  readonly #context: CallContext;
  readonly #events: ResumptionEvents;
  /** That node has the call on the link of some router. */
  #attached: Resumable | undefined;
  #choice: Timer | undefined;
  #timer: Timer | undefined;
  #stopListening = (): void => {};

  constructor(parts: CallParts, context: CallContext, events: ResumptionEvents) {
    this.#parts = parts;
    this.#context = context;
    this.#events = events;
  }

  begin(): void {
    if (this.#take()) return;
    const { resumables, pool, clock, settings } = this.#parts;
    this.#stopListening = resumables.onFound(this.#name, (attached) => {
      if (attached) this.#consider(attached);
      else this.#take();
    });
    this.#timer = clock.setTimer(settings.resumeWaitMs, () => {
      this.stop();
      this.#events.onGivenUp(notHere(this.#context));
    });
    if (resumables.mayAsk(pool.size)) pool.find(this.#name);
  }

  stop(): void {
    this.#timer?.cancel();
    this.#choice?.cancel();
    this.#stopListening();
  }

  get #name(): CallName {
    const { callId, principal } = this.#context;
    return { callId, keyId: principal.keyId };
  }

  #consider(attached: Resumable): void {
    if (!this.#attached || attached.attempt > this.#attached.attempt) this.#attached = attached;
    this.#choice ??= this.#parts.clock.setTimer(choiceMs, () => {
      this.#choice = undefined;
      if (!this.#take()) this.#attached = undefined;
    });
  }

  /** True once it has the call. */
  #take(): boolean {
    const held = this.#parts.resumables.find(this.#name);
    const attached = this.#attached;
    const found = held && attached ? (held.attempt >= attached.attempt ? held : attached) : (held ?? attached);
    if (!found || !this.#events.onFound(found)) return false;
    this.stop();
    return true;
  }
}

/** The replica of a call that was found, as if it had been picked for it. */
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
      throw new Error("invariant violated: a resumed call is dispatched");
    },
  };
}

export function linkResume({ context, request }: CallSpec, { replicaId }: Resumable): LinkResume {
  const requestSha256 = createHash("sha256").update(request).digest();
  return { callId: context.callId, keyId: context.principal.keyId, replicaId, requestSha256 };
}

/** What an agent says of a resume that it refuses, in the words of the client's protocol. */
export function refusedResume(error: MeshError, context: CallContext): MeshError {
  if (error.reason === Reason.NOT_FOUND) return notHere(context);
  if (error.reason !== Reason.INVALID_REQUEST) return error;
  const field = headerOf(context);
  const message = `${field} names call ${context.callId}, which began with another request; repeat that one unchanged.`;
  return new MeshError(Reason.INVALID_REQUEST, message, { field });
}

function notHere(context: CallContext): MeshError {
  const field = headerOf(context);
  const why = "it is over, its time to be resumed is, or this key has no such call";
  const message = `${field} names call ${context.callId}, which no node has: ${why}. Send the request without it.`;
  return new MeshError(Reason.NOT_FOUND, message, { field });
}

function headerOf({ door }: CallContext): string {
  return door.startsWith("openai") ? "last-event-id" : "x-helixmesh-resume";
}

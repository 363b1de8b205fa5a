import { createHash } from "node:crypto";
import { create } from "@bufbuild/protobuf";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { type FindCall, type HeldCall, HeldCallSchema, type ResumeCall } from "#gen/helixmesh/link/v1/link_pb.ts";
import { sameSecret } from "#kernel/api-key.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import type { SessionCall } from "./session-call.ts";

export interface CallFinderOptions {
  readonly held: { readonly calls: Iterable<SessionCall> };
  /** Of all links. */
  readonly sessions: Iterable<{ readonly attachedCalls: Iterable<SessionCall> }>;
}

/** Finds the calls of this node that routers are to resume: held ones, and those that have a link. */
export class CallFinder {
  readonly #options: CallFinderOptions;

  constructor(options: CallFinderOptions) {
    this.#options = options;
  }

  /** What the router that asks is told: of each call that is here, where it is. */
  answer(finds: readonly FindCall[]): HeldCall[] {
    const { held, sessions } = this.#options;
    const found = latest(held.calls, finds);
    const answers = new Map([...found].map(([key, call]) => [key, heldCall(call)]));
    // One look at all calls for all that is asked: many clients come back at once when a router dies.
    for (const { attachedCalls } of sessions) {
      for (const [key, call] of latest(attachedCalls, finds)) {
        if ((answers.get(key)?.attempt ?? 0) >= call.start.attempt) continue;
        const answer = heldCall(call);
        answer.attached = true;
        answers.set(key, answer);
      }
    }
    return [...answers.values()];
  }

  /** The call that a router takes up, which has to adopt it; else why it gets none. */
  find(resume: ResumeCall): SessionCall | MeshError {
    const { held, sessions } = this.#options;
    const all = [held.calls, ...[...sessions].map(({ attachedCalls }) => attachedCalls)];
    let call: SessionCall | undefined;
    for (const calls of all) {
      for (const one of latest(calls, [resume]).values()) {
        if (!call || one.start.attempt > call.start.attempt) call = one;
      }
    }
    if (!call) return new MeshError(Reason.NOT_FOUND, notHere(resume.callId));
    const begun = createHash("sha256").update(call.start.request).digest();
    if (sameSecret(begun, resume.requestSha256)) return call;
    const message = `The request is not the one that began call ${resume.callId}; repeat that one unchanged, or call anew.`;
    return new MeshError(Reason.INVALID_REQUEST, message);
  }
}

interface Named {
  readonly callId: string;
  readonly keyId: string;
}

/** Of calls of one name the latest attempt: it has all that the client has. By key and call id. */
function latest(calls: Iterable<SessionCall>, wanted: readonly Named[]): Map<string, SessionCall> {
  const ids = new Set(wanted.map(({ callId }) => callId));
  const keys = new Set(wanted.map(callKey));
  const found = new Map<string, SessionCall>();
  for (const call of calls) {
    const { start } = call;
    // Most calls are none of those that are asked for.
    if (!ids.has(start.callId)) continue;
    const key = callKey(start);
    if (!keys.has(key) || !call.resumable) continue;
    if ((found.get(key)?.start.attempt ?? 0) <= start.attempt) found.set(key, call);
  }
  return found;
}

/** Key ids have no line breaks. */
export function callKey({ keyId, callId }: Named): string {
  return `${keyId}\n${callId}`;
}

export function heldCall({ start }: SessionCall): HeldCall {
  const { callId, keyId, replicaId, model, deployment, startedAtMs, attempt } = start;
  return create(HeldCallSchema, { callId, keyId, replicaId, model, deployment, startedAtMs, attempt });
}

function notHere(callId: string): string {
  return `No call ${callId} is here for this key: it is over, or its time is. Call anew.`;
}

import { create } from "@bufbuild/protobuf";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { type CallEnd, CallEndSchema, Method } from "#gen/helixmesh/link/v1/link_pb.ts";
import { Outcome, type Usage } from "#gen/helixmesh/type/v1/type_pb.ts";
import type { Timer } from "#kernel/clock.ts";
import { unreachable } from "#kernel/invariant.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { retryAfterMs } from "../admission/queue-errors.ts";
import type { LinkStart } from "../link/call-queue.ts";
import type { Picked } from "../routing/routes.ts";
import { Attempt, type AttemptOwner } from "./attempt.ts";
import type { CallParts, CallSpec } from "./call-parts.ts";
import { unrepeatable } from "./continuity.ts";
import { Delivery } from "./delivery.ts";
import { Hedge } from "./hedge.ts";
import { Recording } from "./recording.ts";
import type { Resumable } from "./resumable-calls.ts";
import { Resumption, linkResume, pickedAgain, refusedResume } from "./resumption.ts";
import { isExtraWork, mayRetryElsewhere } from "./retry.ts";
import { Search } from "./search.ts";
import type { RunningCall } from "./sink.ts";
import { staysBecause } from "./stay.ts";
import { Tally, nothingCounted } from "./tally.ts";

/**
 * searching → asking → relaying → settled, with `cancelling` between our cancel and the agent's last word. A failed
 * attempt goes back to searching: before output to begin again, afterwards to go on where it stopped.
 */
type CallState =
  | { readonly kind: "searching" }
  /** The sink has nothing of these attempts but Started; the second of them is a hedge. */
  | { readonly kind: "asking"; readonly attempts: readonly [Attempt, Attempt?] }
  | { readonly kind: "relaying"; readonly attempt: Attempt }
  | { readonly kind: "cancelling"; readonly outcome: Outcome; readonly error: MeshError; readonly timer: Timer }
  | { readonly kind: "settled" };

/** Tag of GenerateResponse.started: https://protobuf.dev/programming-guides/encoding/#structure, field 1, LEN. */
const startedTag = 0x0a;

/** A client whose own timer fires first cancels; so near to the deadline that it gave, it was the deadline. */
const deadlineSlackMs = 100;

/** One inference in flight, from admission to its one settlement. */
export class Call implements RunningCall, AttemptOwner {
  readonly #parts: CallParts;
  readonly #spec: CallSpec;
  readonly #startMs: number;
  readonly #deadlineMs: number;
  readonly #deadline: Timer;
  readonly #search: Search;
  readonly #delivery: Delivery;
  readonly #recording: Recording;
  readonly #hedge: Hedge;
  readonly #resumption: Resumption | undefined;
  readonly #tally = new Tally();
  #state: CallState = { kind: "searching" };
  /** Where it was dispatched last, or where the output came from. */
  #picked: Picked | undefined;
  #dispatches = 0;
  /** Dispatches since the sink had output last; hedges do not count. */
  #tries = 0;
  #moves = 0;
  /** When the replica was lost whose output has to be continued. */
  #lostMs: number | undefined;
  #startedSent = false;
  /** The sink has more than Started: what follows must continue it. */
  #hasOutput = false;
  #unrepeatable = false;
  /** Unix milliseconds at which a router had the request; not this one, when the call was resumed. */
  #startedAtMs: number;

  constructor(parts: CallParts, spec: CallSpec) {
    const { clock, settings } = parts;
    this.#parts = parts;
    this.#spec = spec;
    this.#startMs = clock.monotonicMs();
    this.#startedAtMs = spec.startedAtMs;
    const timeoutMs = Math.min(settings.callTimeoutMs, spec.context.timeoutMs ?? Number.POSITIVE_INFINITY);
    this.#deadlineMs = this.#startMs + timeoutMs;
    this.#deadline = clock.setTimer(timeoutMs, () =>
      this.#stop(Outcome.FAILED, deadlineExceeded(timeoutMs, this.#search.why)),
    );
    this.#search = new Search(parts, spec, this.#deadlineMs, {
      onFound: (picked) => this.#dispatch(picked),
      onGivenUp: (error) => this.#fail(error, undefined),
    });
    this.#recording = new Recording(parts.recordings, spec.method === Method.GENERATE && settings.maxMoves > 0);
    this.#delivery = new Delivery(this.#recording, spec.sink, settings.maxBufferedBytes, () => this.#cutSlowClient());
    this.#hedge = new Hedge(parts, spec, this.#search);
    if (!spec.context.resumes) return;
    this.#resumption = new Resumption(parts, spec.context, {
      onFound: (held) => this.#takeUp(held),
      onGivenUp: (error) => this.#fail(error, undefined),
    });
  }

  begin(): void {
    if (this.#resumption) this.#resumption.begin();
    else this.#search.begin();
  }

  resume(): void {
    this.#delivery.resume();
  }

  abort(reason?: unknown): void {
    const { timeoutMs = Number.POSITIVE_INFINITY } = this.#spec.context;
    const error = MeshError.from(reason);
    if (error.reason === Reason.DRAINING) return this.cut(error);
    const elapsedMs = this.#parts.clock.monotonicMs() - this.#startMs;
    const isDeadline =
      error.reason === Reason.DEADLINE_EXCEEDED || elapsedMs >= timeoutMs - Math.min(deadlineSlackMs, timeoutMs / 2);
    const limitMs = this.#deadlineMs - this.#startMs;
    if (isDeadline) this.#stop(Outcome.FAILED, deadlineExceeded(limitMs, this.#search.why));
    else this.#stop(Outcome.CANCELLED, new MeshError(Reason.CANCELLED, "The client went away."));
  }

  /** Ends the call from the router's side. */
  cut(error: MeshError): void {
    this.#stop(Outcome.FAILED, error);
  }

  onResponse(attempt: Attempt, bytes: Uint8Array, start: number, end: number): void {
    if (this.#state.kind !== "relaying" && !this.#isForClient(attempt, bytes, start, end)) return;
    if (!this.#unrepeatable) return this.#delivery.onResponse(bytes, start, end);
    const marked = unrepeatable(bytes, start, end);
    this.#delivery.onResponse(marked, 0, marked.length);
  }

  onEnd(attempt: Attempt, end: CallEnd): void {
    const state = this.#state;
    switch (state.kind) {
      case "cancelling":
        state.timer.cancel();
        if (end.reason === Reason.RESUMED_ELSEWHERE) return this.#settle(Outcome.FAILED, errorOf(end), undefined);
        return this.#settle(state.outcome, state.error, end.usage);
      case "asking":
      case "relaying":
        break;
      case "searching":
      case "settled":
        return;
      default:
        unreachable(state);
    }
    if (end.reason === Reason.UNSPECIFIED) {
      if (state.kind === "asking") this.#answers(attempt);
      this.#settle(Outcome.COMPLETED, undefined, end.usage);
      return this.#delivery.finish();
    }
    const { reason } = end;
    const error = errorOf(end);
    if (this.#resumption && !this.#startedSent) return this.#fail(refusedResume(error, this.#spec.context), end.usage);
    const other = state.kind === "asking" ? state.attempts.find((one) => one && one !== attempt) : undefined;
    if (other) {
      // It may still bring the answer.
      if (attempt.link) this.#tally.drop(attempt.link);
      this.#search.failed(attempt.picked, error);
      this.#picked = other.picked;
      this.#state = { kind: "asking", attempts: [other] };
      return;
    }
    if (!mayRetryElsewhere(reason)) this.#fail(error, end.usage);
    else if (this.#hasOutput) this.#goOn(attempt, error, end.usage, state.kind === "relaying");
    else this.#beginAgain(attempt, error, end.usage);
  }

  #dispatch(picked: Picked): void {
    const attempt = this.#ask(picked);
    if (!attempt) return this.#search.wait();
    this.#tries += 1;
    this.#state = { kind: "asking", attempts: [attempt] };
    if (this.#hasOutput) return;
    this.#hedge.arm(picked, (second) => {
      const hedge = this.#ask(second);
      if (hedge) this.#state = { kind: "asking", attempts: [attempt, hedge] };
      return hedge;
    });
  }

  /** For a call that was another router's. False: its node cannot be asked. */
  #takeUp(held: Resumable): boolean {
    const attempt = new Attempt(this.#parts, pickedAgain(held), this);
    if (!attempt.resume(linkResume(this.#spec, held))) return false;
    if (attempt.link) this.#tally.begin(attempt.link);
    this.#dispatches = held.attempt;
    this.#tries = 1;
    this.#picked = attempt.picked;
    this.#startedAtMs = held.startedAtMs;
    // Another replica may have begun it.
    if (held.attempt > 1 && this.#spec.drawing === "seeded") this.#unrepeatable = !attempt.seedByPosition;
    this.#state = { kind: "asking", attempts: [attempt] };
    return true;
  }

  /** Undefined when the replica does not take it, though it was ready a moment ago. */
  #ask(picked: Picked): Attempt | undefined {
    const { context, method, request, span, drawing, deployment } = this.#spec;
    const relayed = this.#hasOutput ? this.#recording.read() : [];
    const attempt = new Attempt(this.#parts, picked, this);
    const nowMs = this.#parts.clock.monotonicMs();
    const start: LinkStart = {
      callId: context.callId,
      replicaId: picked.replicaId,
      method,
      request,
      timeoutMs: Math.max(1, this.#deadlineMs - nowMs),
      traceparent: span.traceparent,
      model: picked.model,
      deployment: picked.deployment,
      relayed: typeof relayed === "string" ? [] : relayed,
      // Nobody waits for the answer to a copy.
      keyId: deployment === undefined ? context.principal.keyId : "",
      startedAtMs: this.#startedAtMs,
      attempt: this.#dispatches + 1,
    };
    if (!attempt.begin(start, nowMs)) return undefined;
    if (attempt.link) this.#tally.begin(attempt.link);
    this.#dispatches += 1;
    this.#picked = picked;
    if (this.#hasOutput && drawing === "seeded") this.#unrepeatable ||= !attempt.seedByPosition;
    return attempt;
  }

  /** For the first response of an attempt. False: the client has it already, or wants it no longer. */
  #isForClient(attempt: Attempt, bytes: Uint8Array, start: number, end: number): boolean {
    if (this.#state.kind !== "asking") return false;
    if (this.#spec.method === Method.GENERATE) {
      if (bytes[start] === startedTag) {
        if (this.#hasOutput) return this.#leaveRepeating(attempt);
        this.#tally.started(bytes, start, end);
        attempt.admitted(this.#tally.promptTokens);
        // After a retry, or from a hedge, it has its Started already.
        const isFirst = !this.#startedSent;
        this.#startedSent = true;
        return isFirst;
      }
      attempt.firstToken();
    }
    this.#answers(attempt);
    return true;
  }

  /** An agent of an older release, which begins a moved call anew. */
  #leaveRepeating(attempt: Attempt): false {
    attempt.leave();
    const message = "The call was begun on another node, and its replica here began it anew.";
    this.onEnd(attempt, create(CallEndSchema, { reason: Reason.CANNOT_CONTINUE, message }));
    return false;
  }

  /** The attempt brought output first; another one is stopped. */
  #answers(attempt: Attempt): void {
    const state = this.#state;
    if (state.kind !== "asking") return;
    for (const other of state.attempts) if (other && other !== attempt) this.#leave(other);
    this.#hedge.over(attempt);
    this.#picked = attempt.picked;
    // From here on its responses come by the short way, unless each has to be marked.
    if (!this.#unrepeatable) attempt.relayTo(this.#delivery);
    this.#state = { kind: "relaying", attempt };
    this.#hasOutput = true;
    this.#tries = 0;
    if (this.#lostMs === undefined) return;
    this.#parts.metrics.moved(this.#parts.clock.monotonicMs() - this.#lostMs);
    this.#lostMs = undefined;
  }

  /** What it brought, if anything, does not count. */
  #leave(attempt: Attempt): void {
    attempt.leave();
    if (attempt.link) this.#tally.drop(attempt.link);
  }

  /** For an attempt that failed with nothing of it at the client. */
  #beginAgain({ picked }: Attempt, error: MeshError, usage: Usage | undefined): void {
    const { settings, health, metrics } = this.#parts;
    const mayRetry = !isExtraWork(error.reason) || health.mayRetry(picked.deployment);
    if (this.#dispatches >= settings.maxAttempts || !mayRetry) return this.#fail(error, usage);
    metrics.retried(error.row.openAiCode ?? "");
    this.#tally.restart();
    this.#hedge.over(undefined);
    this.#state = { kind: "searching" };
    this.#search.again(picked, error);
  }

  /** For an attempt that failed after output; `brought`: some of that output was its own. */
  #goOn(attempt: Attempt, error: MeshError, usage: Usage | undefined, brought: boolean): void {
    const { settings, metrics, clock } = this.#parts;
    const nowMs = clock.monotonicMs();
    if (attempt.link) this.#tally.end(attempt.link, nowMs);
    const recorded = this.#recording.read();
    const stays = staysBecause({ recorded, moves: this.#moves, tries: this.#tries, brought, settings });
    const isExact = this.#spec.drawing !== "seeded" || attempt.seedByPosition;
    if ((stays || !isExact) && this.#delivery.restart()) {
      // Nothing of it has left the router.
      this.#hasOutput = false;
      this.#startedSent = false;
      this.#unrepeatable = false;
      this.#recording.restart();
      return this.#beginAgain(attempt, error, usage);
    }
    if (stays) {
      metrics.stayed(stays.kind);
      return this.#fail(withText(error, `${error.message}${stays.text}`), usage);
    }
    metrics.moves(error.row.openAiCode ?? "");
    if (brought) this.#moves += 1;
    this.#unrepeatable ||= !isExact;
    this.#lostMs ??= nowMs;
    this.#state = { kind: "searching" };
    this.#search.onward(attempt.picked, error);
  }

  #cutSlowClient(): void {
    const { metrics, settings } = this.#parts;
    metrics.slowClientCut();
    const limit = `${settings.maxBufferedBytes} bytes`;
    const message = `The client did not read: ${limit} of the answer waited for it. Read the stream as it comes.`;
    const error = new MeshError(Reason.RATE_LIMITED, message, { limit });
    if (this.#end(Outcome.FAILED, error)) this.#delivery.cut(error);
  }

  #stop(outcome: Outcome, error: MeshError): void {
    if (this.#end(outcome, error)) this.#delivery.stop(error);
  }

  /** Ends the call from our side: the agent gets a cancel if it has the call. False when it had ended before. */
  #end(outcome: Outcome, error: MeshError): boolean {
    const state = this.#state;
    switch (state.kind) {
      case "searching":
        this.#search.stop();
        this.#resumption?.stop();
        this.#settle(outcome, error, undefined);
        return true;
      case "asking":
        if (state.attempts[1]) this.#leave(state.attempts[1]);
        this.#cancel(state.attempts[0], outcome, error);
        return true;
      case "relaying":
        this.#cancel(state.attempt, outcome, error);
        return true;
      case "cancelling":
      case "settled":
        return false;
      default:
        return unreachable(state);
    }
  }

  #cancel(attempt: Attempt, outcome: Outcome, error: MeshError): void {
    const { clock, settings } = this.#parts;
    this.#hedge.over(undefined);
    const timer = clock.setTimer(settings.cancelGraceMs, () => this.#settle(outcome, error, undefined));
    this.#state = { kind: "cancelling", outcome, error, timer };
    attempt.cancel();
  }

  #fail(error: MeshError, usage: Usage | undefined): void {
    this.#settle(Outcome.FAILED, error, usage);
    // Whoever has a part of an answer must know what the part is worth.
    const isPart = this.#hasOutput && !this.#delivery.restart();
    const advice = " What came before is valid but incomplete; call again.";
    this.#delivery.fail(isPart ? withText(error, `${error.message}${advice}`) : error);
  }

  /** Once, on every path. */
  #settle(outcome: Outcome, error: MeshError | undefined, usage: Usage | undefined): void {
    if (this.#state.kind === "settled") return;
    this.#state = { kind: "settled" };
    const { clock, settle, queues, metrics } = this.#parts;
    const { context, model, labels, permit, span, startedAtMs } = this.#spec;
    // Somebody else's call, of which nothing came here.
    const isForeign = this.#resumption !== undefined && !this.#startedSent;
    // Whoever has the call accounts for all of it.
    const isTaken = error?.reason === Reason.RESUMED_ELSEWHERE;
    if (this.#resumption) metrics.resumed(isForeign ? (error?.row.openAiCode ?? "") : "resumed");
    this.#deadline.cancel();
    this.#hedge.over(undefined);
    this.#recording.end();
    permit.release();
    const nowMs = clock.monotonicMs();
    const counted = isTaken ? nothingCounted : this.#tally.result(usage, this.#startMs, nowMs);
    if (this.#picked) {
      queues.charge(this.#picked.deployment, context.principal.projectId, counted.completionTokens);
    }
    const settlement = {
      ...counted,
      context,
      model: isForeign || isTaken ? "" : (this.#picked?.model ?? model),
      deployment: this.#picked?.deployment ?? "",
      nodeId: this.#picked?.nodeId ?? "",
      outcome,
      error,
      startedAtMs: this.#startedAtMs,
      durationMs: nowMs - this.#startMs + Math.max(0, startedAtMs - this.#startedAtMs),
      waitedMs: this.#search.waitedMs,
      attempts: this.#dispatches,
      moves: this.#moves,
      labels,
    };
    settle(settlement, span);
  }
}

function errorOf({ reason, message, field, limit }: CallEnd): MeshError {
  // An engine that is full cannot know when to come again.
  const retry = reason === Reason.OVERLOADED && { retryAfterMs: retryAfterMs(0) };
  return new MeshError(reason, message, { field, limit, ...retry });
}

function withText({ reason, field, limit, retryAfterMs, cause }: MeshError, message: string): MeshError {
  return new MeshError(reason, message, { field, limit, retryAfterMs, cause });
}

/** `why` as `Search.why`. */
function deadlineExceeded(timeoutMs: number, why: string): MeshError {
  if (timeoutMs <= 0) {
    return new MeshError(Reason.DEADLINE_EXCEEDED, "The call's deadline had passed when it came. Allow more time.");
  }
  const limit = `${Math.round(timeoutMs)} ms`;
  return new MeshError(Reason.DEADLINE_EXCEEDED, `The call took longer than ${limit}, its limit.${why}`, { limit });
}

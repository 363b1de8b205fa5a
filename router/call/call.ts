import { fromBinary } from "@bufbuild/protobuf";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { GenerateResponseSchema } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { type CallEnd, Method } from "#gen/helixmesh/link/v1/link_pb.ts";
import { Outcome, type Usage } from "#gen/helixmesh/type/v1/type_pb.ts";
import { Backoff } from "#kernel/backoff.ts";
import type { Clock, Timer } from "#kernel/clock.ts";
import { unreachable } from "#kernel/invariant.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import type { Random } from "#kernel/random.ts";
import type { Span } from "#kernel/trace.ts";
import type { Permit } from "../admission/limits.ts";
import type { IndexedSnapshot } from "../discovery/snapshot.ts";
import type { LinkCall, LinkCallEvents, LinkStart } from "../link/link.ts";
import type { Candidate } from "../routing/candidate.ts";
import { type Need, type ReplicaView, findCandidates } from "../routing/candidates.ts";
import type { CallMetrics } from "./call-metrics.ts";
import type { CallContext } from "./calls.ts";
import { Outbox } from "./outbox.ts";
import { mayRetryElsewhere, mayRetrySame } from "./retry.ts";
import type { Settle } from "./settle.ts";

export interface CallSettings {
  /** Longest a call may take, whatever the client asks for. */
  readonly callTimeoutMs: number;
  /** Longest a call waits for a replica to become ready, over all attempts. */
  readonly readyWaitMs: number;
  /** How long a cancelled call waits for the agent to say what it had generated. */
  readonly cancelGraceMs: number;
  /** Times a call may be dispatched. */
  readonly maxAttempts: number;
  /** Bytes generated for a client that has not taken them. */
  readonly maxBufferedBytes: number;
}

/** What a call needs of the links to all agents. */
export interface CallLinks {
  /** Undefined when the replica takes no new calls. */
  replica(nodeId: string, replicaId: string): ReplicaView | undefined;
  /** Undefined when the replica takes no calls at this moment. */
  start(nodeId: string, start: LinkStart, events: LinkCallEvents): LinkCall | undefined;
  /** Calls `listener` when a replica may have become ready, until the returned function is called. */
  onChange(listener: () => void): () => void;
}

export interface CallParts {
  readonly settings: CallSettings;
  readonly snapshot: () => IndexedSnapshot;
  readonly pool: CallLinks;
  /** Chooses one of at least one. */
  readonly pick: (candidates: readonly Candidate[]) => Candidate;
  readonly settle: Settle;
  readonly metrics: CallMetrics;
  readonly clock: Clock;
  readonly random: Random;
}

/** What to run, checked and resolved. */
export interface CallSpec {
  readonly context: CallContext;
  readonly method: Method;
  /** The model's resolved name. */
  readonly model: string;
  /** The request message, encoded. */
  readonly request: Uint8Array;
  readonly needs: readonly Need[];
  readonly labels: Readonly<Record<string, string>>;
  readonly permit: Permit;
  readonly span: Span;
  /** Unix milliseconds at which the door had the request. */
  readonly startedAtMs: number;
}

interface Attempt {
  readonly candidate: Candidate;
  readonly link: LinkCall;
}

/**
 * placing → dispatched → started → relaying → settled, with `waiting` whenever no replica is ready and `cancelling`
 * between our cancel and the agent's last word. Until `relaying` a failed attempt may go back to placing.
 */
type CallState =
  | { readonly kind: "placing" }
  | { readonly kind: "waiting"; readonly sinceMs: number; readonly stop: () => void }
  | { readonly kind: "dispatched"; readonly attempt: Attempt }
  /** The engine took it; the client has Started and nothing else. */
  | { readonly kind: "started"; readonly attempt: Attempt }
  /** The client has output: the call cannot begin anew. */
  | { readonly kind: "relaying"; readonly attempt: Attempt }
  | { readonly kind: "cancelling"; readonly outcome: Outcome; readonly error: MeshError; readonly timer: Timer }
  | { readonly kind: "settled" };

/** Tag of GenerateResponse.started: https://protobuf.dev/programming-guides/encoding/#structure, field 1, LEN. */
const startedTag = 0x0a;

/** A client whose own timer fires first cancels; so near to the deadline that it gave, it was the deadline. */
const deadlineSlackMs = 100;

/** One inference in flight, from admission to its one settlement. */
export class Call {
  readonly outbox: Outbox;
  readonly #parts: CallParts;
  readonly #spec: CallSpec;
  readonly #startMs: number;
  readonly #deadlineMs: number;
  readonly #deadline: Timer;
  readonly #onAbort = (): void => this.#abort();
  readonly #backoff: Backoff;
  /** Replicas that failed this call, with why. */
  readonly #tried = new Map<string, Reason>();
  #state: CallState = { kind: "placing" };
  #last: { readonly candidate: Candidate; readonly error: MeshError | undefined } | undefined;
  #attempts = 0;
  #notBeforeMs = 0;
  #waitedMs = 0;
  #startedSent = false;
  #promptTokens = 0;
  #cachedTokens = 0;
  #completionTokens = 0;
  #firstTokenMs: number | undefined;
  #lastTokenMs = 0;
  /** Tokens that came with the first output; the rest are spread between first and last. */
  #firstTokens = 0;

  constructor(parts: CallParts, spec: CallSpec) {
    const { clock, settings } = parts;
    this.#parts = parts;
    this.#spec = spec;
    this.#startMs = clock.monotonicMs();
    this.#backoff = new Backoff({ initialMs: 25, maxMs: 1_000 }, parts.random);
    this.outbox = new Outbox(settings.maxBufferedBytes, this.#onAbort);
    const timeoutMs = Math.min(settings.callTimeoutMs, spec.context.timeoutMs ?? Number.POSITIVE_INFINITY);
    this.#deadlineMs = this.#startMs + timeoutMs;
    this.#deadline = clock.setTimer(timeoutMs, () => this.#stop(Outcome.FAILED, deadlineExceeded(timeoutMs)));
  }

  begin(): void {
    const { signal } = this.#spec.context;
    if (signal.aborted) return this.#onAbort();
    signal.addEventListener("abort", this.#onAbort, { once: true });
    this.#place();
  }

  #abort(): void {
    const { signal, timeoutMs = Number.POSITIVE_INFINITY } = this.#spec.context;
    const error = MeshError.from(signal.reason);
    if (error.reason === Reason.DRAINING) return this.cut(error);
    const elapsedMs = this.#parts.clock.monotonicMs() - this.#startMs;
    const isDeadline =
      error.reason === Reason.DEADLINE_EXCEEDED || elapsedMs >= timeoutMs - Math.min(deadlineSlackMs, timeoutMs / 2);
    if (isDeadline) this.#stop(Outcome.FAILED, deadlineExceeded(this.#deadlineMs - this.#startMs));
    else this.#stop(Outcome.CANCELLED, new MeshError(Reason.CANCELLED, "The client went away."));
  }

  /** Ends the call from the router's side. */
  cut(error: MeshError): void {
    this.#stop(Outcome.FAILED, error);
  }

  /** Picks a replica and dispatches, or waits for one, or gives up. */
  #place(): void {
    const { snapshot: current, pool, pick, clock } = this.#parts;
    const { model, needs } = this.#spec;
    const snapshot = current();
    const deployments = snapshot.deploymentsOfModel.get(model) ?? [];
    const found = findCandidates(snapshot, (nodeId, replicaId) => pool.replica(nodeId, replicaId), deployments, needs);
    if (found.kind === "unsupported") return this.#fail(unsupported(found.need, model));
    const candidates = found.kind === "candidates" ? found.candidates : [];
    const fresh = candidates.filter(({ replicaId }) => !this.#tried.has(replicaId));
    if (fresh.length > 0) return this.#dispatch(pick(fresh));
    const again = candidates.filter(({ replicaId }) => mayRetrySame(this.#tried.get(replicaId) ?? Reason.UNSPECIFIED));
    // All that could take it are full: say so now instead of adding to their load.
    if (candidates.length > 0 && again.length === 0 && this.#last?.error) return this.#fail(this.#last.error);
    const pauseMs = this.#notBeforeMs - clock.monotonicMs();
    if (again.length > 0 && pauseMs <= 0) return this.#dispatch(pick(again));
    this.#wait(again.length > 0 ? pauseMs : undefined);
  }

  /** Until something changes on the links, `retryInMs` passed, or the time for waiting is spent. */
  #wait(retryInMs: number | undefined): void {
    const { pool, clock, settings } = this.#parts;
    const leftMs = settings.readyWaitMs - this.#waitedMs;
    if (leftMs <= 0) return this.#fail(this.#noReplica());
    const resume = (): void => {
      if (this.#leaveWaiting()) this.#place();
    };
    const timers = [
      clock.setTimer(leftMs, () => {
        if (this.#leaveWaiting()) this.#fail(this.#noReplica());
      }),
      ...(retryInMs === undefined ? [] : [clock.setTimer(retryInMs, resume)]),
    ];
    const stopListening = pool.onChange(resume);
    this.#state = {
      kind: "waiting",
      sinceMs: clock.monotonicMs(),
      stop() {
        stopListening();
        for (const timer of timers) timer.cancel();
      },
    };
  }

  #leaveWaiting(): boolean {
    if (this.#state.kind !== "waiting") return false;
    this.#state.stop();
    this.#waitedMs += this.#parts.clock.monotonicMs() - this.#state.sinceMs;
    this.#state = { kind: "placing" };
    return true;
  }

  #dispatch(candidate: Candidate): void {
    const { pool, clock } = this.#parts;
    const { context, method, model, request, span } = this.#spec;
    const start = {
      callId: context.callId,
      replicaId: candidate.replicaId,
      method,
      request,
      timeoutMs: Math.max(1, this.#deadlineMs - clock.monotonicMs()),
      traceparent: span.traceparent,
      model,
      deployment: candidate.deployment,
      relayed: [],
    };
    const link = pool.start(candidate.nodeId, start, {
      onResponse: (bytes, from, to) => this.#onResponse(bytes.slice(from, to)),
      onTokens: (count) => this.#onTokens(count),
      onEnd: (end) => this.#onEnd(end, candidate),
    });
    // It was ready a moment ago in this same turn, so this cannot be; if it is, waiting is right.
    if (!link) return this.#wait(undefined);
    this.#attempts += 1;
    this.#last = { candidate, error: undefined };
    this.#state = { kind: "dispatched", attempt: { candidate, link } };
  }

  #onResponse(response: Uint8Array): void {
    const state = this.#state;
    if (state.kind !== "dispatched" && state.kind !== "started" && state.kind !== "relaying") return;
    const { attempt } = state;
    if (this.#spec.method === Method.GENERATE && response[0] === startedTag) {
      this.#state = { kind: "started", attempt };
      this.#readStarted(response);
      // After a retry the client has its Started already.
      if (this.#startedSent) return;
      this.#startedSent = true;
    } else if (state.kind !== "relaying") {
      this.#state = { kind: "relaying", attempt };
    }
    if (!this.outbox.push(response)) this.#cutSlowClient();
  }

  #readStarted(response: Uint8Array): void {
    const { event } = fromBinary(GenerateResponseSchema, response);
    if (event.case !== "started") return;
    this.#promptTokens = event.value.promptTokens;
    this.#cachedTokens = event.value.cachedTokens;
  }

  #onTokens(tokens: number): void {
    this.#completionTokens += tokens;
    if (this.#state.kind !== "started" && this.#state.kind !== "relaying") return;
    const nowMs = this.#parts.clock.monotonicMs();
    if (this.#firstTokenMs === undefined) {
      this.#firstTokenMs = nowMs;
      this.#firstTokens = tokens;
    }
    this.#lastTokenMs = nowMs;
  }

  #onEnd(end: CallEnd, candidate: Candidate): void {
    const state = this.#state;
    switch (state.kind) {
      case "cancelling":
        state.timer.cancel();
        return this.#settle(state.outcome, state.error, end.usage);
      case "dispatched":
      case "started":
      case "relaying":
        break;
      case "placing":
      case "waiting":
      case "settled":
        return;
      default:
        unreachable(state);
    }
    if (end.reason === Reason.UNSPECIFIED) {
      this.#settle(Outcome.COMPLETED, undefined, end.usage);
      return this.outbox.finish();
    }
    // Whoever has a part of an answer must know what the part is worth.
    const advice = state.kind === "relaying" ? " What came before is valid but incomplete; call again." : "";
    const error = new MeshError(end.reason, `${end.message}${advice}`, { field: end.field, limit: end.limit });
    this.#last = { candidate, error };
    const mayRetry = state.kind !== "relaying" && this.#attempts < this.#parts.settings.maxAttempts;
    if (!mayRetry || !mayRetryElsewhere(end.reason)) {
      this.#settle(Outcome.FAILED, error, end.usage);
      return this.outbox.fail(error);
    }
    this.#parts.metrics.retried(error.row.openAiCode ?? "");
    this.#tried.set(candidate.replicaId, end.reason);
    this.#notBeforeMs = this.#parts.clock.monotonicMs() + this.#backoff.nextMs();
    this.#completionTokens = 0;
    this.#state = { kind: "placing" };
    this.#place();
  }

  #cutSlowClient(): void {
    const { metrics, settings } = this.#parts;
    metrics.slowClientCut();
    const limit = `${settings.maxBufferedBytes} bytes`;
    const message = `The client did not read: ${limit} of the answer waited for it. Read the stream as it comes.`;
    this.#stop(Outcome.FAILED, new MeshError(Reason.RATE_LIMITED, message, { limit }));
    this.#spec.context.cutClient?.();
  }

  /** Ends the call from our side: the client gets `error`, the agent a cancel if it has the call. */
  #stop(outcome: Outcome, error: MeshError): void {
    const state = this.#state;
    switch (state.kind) {
      case "placing":
      case "waiting":
        this.#leaveWaiting();
        this.#settle(outcome, error, undefined);
        break;
      case "dispatched":
      case "started":
      case "relaying": {
        const { clock, settings } = this.#parts;
        const timer = clock.setTimer(settings.cancelGraceMs, () => this.#settle(outcome, error, undefined));
        this.#state = { kind: "cancelling", outcome, error, timer };
        state.attempt.link.cancel();
        break;
      }
      case "cancelling":
      case "settled":
        return;
      default:
        unreachable(state);
    }
    this.outbox.fail(error, true);
  }

  #fail(error: MeshError): void {
    this.#settle(Outcome.FAILED, error, undefined);
    this.outbox.fail(error);
  }

  /** Once, on every path. */
  #settle(outcome: Outcome, error: MeshError | undefined, usage: Usage | undefined): void {
    if (this.#state.kind === "settled") return;
    this.#state = { kind: "settled" };
    const { clock, settle } = this.#parts;
    const { context, model, labels, permit, span, startedAtMs } = this.#spec;
    this.#deadline.cancel();
    context.signal.removeEventListener("abort", this.#onAbort);
    permit.release();
    const laterTokens = this.#completionTokens - this.#firstTokens;
    const settlement = {
      context,
      model,
      deployment: this.#last?.candidate.deployment ?? "",
      nodeId: this.#last?.candidate.nodeId ?? "",
      outcome,
      error,
      // The agent's count is the truth; without it (a lost node) what was relayed is.
      promptTokens: usage?.promptTokens || this.#promptTokens,
      cachedTokens: usage?.cachedTokens || this.#cachedTokens,
      completionTokens: usage?.completionTokens || this.#completionTokens,
      startedAtMs,
      durationMs: clock.monotonicMs() - this.#startMs,
      ttftMs: this.#firstTokenMs === undefined ? undefined : this.#firstTokenMs - this.#startMs,
      interTokenMs:
        this.#firstTokenMs !== undefined && laterTokens > 0
          ? (this.#lastTokenMs - this.#firstTokenMs) / laterTokens
          : undefined,
      waitedMs: this.#waitedMs,
      attempts: this.#attempts,
      labels,
    };
    settle(settlement, span);
  }

  #noReplica(): MeshError {
    const { model } = this.#spec;
    const waited = `waited ${Math.round(this.#waitedMs)} ms for a ready replica of ${JSON.stringify(model)}`;
    const last = this.#last?.error;
    if (last) return new MeshError(last.reason, `${last.message} The router then ${waited}.`, { retryAfterMs: 1_000 });
    return new MeshError(Reason.NO_READY_REPLICA, `No replica is ready: the router ${waited}. Try again shortly.`, {
      retryAfterMs: 1_000,
    });
  }
}

function deadlineExceeded(timeoutMs: number): MeshError {
  const limit = `${Math.round(timeoutMs)} ms`;
  return new MeshError(Reason.DEADLINE_EXCEEDED, `The call took longer than ${limit}, its limit.`, { limit });
}

function unsupported(need: Need, model: string): MeshError {
  const what = need.parameter === "model" ? `cannot ${verb(need.capability)}` : "does not support this parameter";
  return new MeshError(
    Reason.UNSUPPORTED_PARAMETER,
    `${need.parameter}: the engine that serves ${JSON.stringify(model)} ${what}.`,
    { field: need.parameter },
  );
}

function verb(capability: Need["capability"]): string {
  return capability === "embed" ? "make embeddings; use an embedding model" : "generate text; use a generative model";
}

import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { type CallEnd, Method } from "#gen/helixmesh/link/v1/link_pb.ts";
import { Outcome, type Usage } from "#gen/helixmesh/type/v1/type_pb.ts";
import type { Timer } from "#kernel/clock.ts";
import { unreachable } from "#kernel/invariant.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import type { Picked } from "../routing/routes.ts";
import { Attempt } from "./attempt.ts";
import type { CallParts, CallSpec } from "./call-parts.ts";
import { Delivery } from "./delivery.ts";
import { type Place, Placement } from "./placement.ts";
import { mayRetryElsewhere } from "./retry.ts";
import type { RunningCall } from "./sink.ts";
import { Tally } from "./tally.ts";

/**
 * placing → dispatched → started → relaying → settled, with `waiting` until it is the call's turn and `cancelling`
 * between our cancel and the agent's last word. Until the client has output a failed attempt may go back to placing.
 */
type CallState =
  | { readonly kind: "placing" }
  /** `cold`: because no replica was ready when it began to wait. */
  | { readonly kind: "waiting"; readonly sinceMs: number; readonly cold: boolean; readonly stop: () => void }
  | { readonly kind: "dispatched"; readonly attempt: Attempt }
  /** The engine took it; the sink has Started and nothing else. */
  | { readonly kind: "started"; readonly attempt: Attempt }
  /** The sink has output: the call begins anew only where the sink can forget it. */
  | { readonly kind: "relaying"; readonly attempt: Attempt }
  | { readonly kind: "cancelling"; readonly outcome: Outcome; readonly error: MeshError; readonly timer: Timer }
  | { readonly kind: "settled" };

/** Tag of GenerateResponse.started: https://protobuf.dev/programming-guides/encoding/#structure, field 1, LEN. */
const startedTag = 0x0a;

/** A client whose own timer fires first cancels; so near to the deadline that it gave, it was the deadline. */
const deadlineSlackMs = 100;

/** One inference in flight, from admission to its one settlement. */
export class Call implements RunningCall {
  readonly #parts: CallParts;
  readonly #spec: CallSpec;
  readonly #startMs: number;
  readonly #deadlineMs: number;
  readonly #deadline: Timer;
  readonly #placement: Placement;
  readonly #delivery: Delivery;
  readonly #tally = new Tally();
  #state: CallState = { kind: "placing" };
  /** Where it was dispatched last. */
  #picked: Picked | undefined;
  #attempts = 0;
  /** Without a ready replica. */
  #waitedMs = 0;
  #startedSent = false;

  constructor(parts: CallParts, spec: CallSpec) {
    const { clock, settings } = parts;
    this.#parts = parts;
    this.#spec = spec;
    this.#startMs = clock.monotonicMs();
    this.#placement = new Placement(parts, spec);
    this.#delivery = new Delivery(spec.sink, settings.maxBufferedBytes);
    const timeoutMs = Math.min(settings.callTimeoutMs, spec.context.timeoutMs ?? Number.POSITIVE_INFINITY);
    this.#deadlineMs = this.#startMs + timeoutMs;
    this.#deadline = clock.setTimer(timeoutMs, () => this.#stop(Outcome.FAILED, deadlineExceeded(timeoutMs)));
  }

  begin(): void {
    const { health, rooms } = this.#parts;
    const { deployment, model } = this.#spec;
    const place = this.#placement.choose();
    if (deployment !== undefined) return this.#take(place);
    const line = place.kind === "dispatch" ? place.picked.deployment : rooms.lineOf(model);
    health.called(line);
    if (place.kind === "refuse") this.#fail(place.error, undefined);
    else this.#enter(line, place);
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
        this.#leaveWaiting();
        if (atOnce) this.#take(atOnce);
        else this.#turn(deployment);
      },
      onRefused: (error) => {
        this.#leaveWaiting();
        this.#fail(error, undefined);
      },
    });
    atOnce = undefined;
    if (!ticket) return;
    const { stop } = this.#limitColdWait(deployment);
    this.#state = {
      kind: "waiting",
      sinceMs: clock.monotonicMs(),
      cold: rooms.of(deployment) === "cold",
      stop() {
        stop();
        ticket.leave();
      },
    };
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
        if (rooms.of(deployment) !== "cold") watch(settings.readyWaitMs);
        else if (this.#leaveWaiting()) this.#fail(this.#placement.exhausted(this.#waitedMs), undefined);
      });
    };
    watch(Math.max(0, settings.readyWaitMs - this.#waitedMs));
    return { stop: () => timer.cancel() };
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
    if (isDeadline) this.#stop(Outcome.FAILED, deadlineExceeded(this.#deadlineMs - this.#startMs));
    else this.#stop(Outcome.CANCELLED, new MeshError(Reason.CANCELLED, "The client went away."));
  }

  /** Ends the call from the router's side. */
  cut(error: MeshError): void {
    this.#stop(Outcome.FAILED, error);
  }

  #take(place: Place): void {
    switch (place.kind) {
      case "dispatch":
        return this.#dispatch(place.picked);
      case "queue":
        return this.#enter(place.deployment, undefined);
      case "wait":
        return this.#wait(place.retryInMs);
      case "refuse":
        return this.#fail(place.error, undefined);
      default:
        unreachable(place);
    }
  }

  /** Until something changes on the links, `retryInMs` passed, or the time for waiting is spent. */
  #wait(retryInMs: number | undefined): void {
    const { pool, clock, settings } = this.#parts;
    const leftMs = settings.readyWaitMs - this.#waitedMs;
    if (leftMs <= 0) return this.#fail(this.#placement.exhausted(this.#waitedMs), undefined);
    const resume = (): void => {
      if (this.#leaveWaiting()) this.#take(this.#placement.choose());
    };
    const timers = [
      clock.setTimer(leftMs, () => {
        if (this.#leaveWaiting()) this.#fail(this.#placement.exhausted(this.#waitedMs), undefined);
      }),
      ...(retryInMs === undefined ? [] : [clock.setTimer(retryInMs, resume)]),
    ];
    const stopListening = pool.onChange(resume);
    this.#state = {
      kind: "waiting",
      sinceMs: clock.monotonicMs(),
      cold: true,
      stop() {
        stopListening();
        for (const timer of timers) timer.cancel();
      },
    };
  }

  #leaveWaiting(): boolean {
    if (this.#state.kind !== "waiting") return false;
    this.#state.stop();
    if (this.#state.cold) this.#waitedMs += this.#parts.clock.monotonicMs() - this.#state.sinceMs;
    this.#state = { kind: "placing" };
    return true;
  }

  #dispatch(picked: Picked): void {
    const { pool, clock } = this.#parts;
    const { context, method, request, span } = this.#spec;
    const start = {
      callId: context.callId,
      replicaId: picked.replicaId,
      method,
      request,
      timeoutMs: Math.max(1, this.#deadlineMs - clock.monotonicMs()),
      traceparent: span.traceparent,
      model: picked.model,
      deployment: picked.deployment,
      relayed: [],
    };
    let attempt: Attempt | undefined;
    const link = pool.start(picked.nodeId, start, {
      onResponse: (bytes, from, to) => this.#onResponse(bytes, from, to),
      onTokens: (count) => this.#onTokens(count),
      onEnd: (end) => {
        attempt?.ended(end.reason);
        this.#onEnd(end, picked);
      },
    });
    // It was ready a moment ago in this same turn, so this cannot be; if it is, waiting is right.
    if (!link) return this.#wait(undefined);
    this.#attempts += 1;
    this.#picked = picked;
    attempt = new Attempt(this.#parts, picked, link);
    this.#state = { kind: "dispatched", attempt };
  }

  #onResponse(bytes: Uint8Array, start: number, end: number): void {
    const state = this.#state;
    if (state.kind !== "relaying") {
      if (state.kind !== "dispatched" && state.kind !== "started") return;
      const { attempt } = state;
      if (this.#spec.method === Method.GENERATE && bytes[start] === startedTag) {
        this.#state = { kind: "started", attempt };
        this.#tally.started(bytes.subarray(start, end));
        attempt.admitted(this.#tally.promptTokens);
        // After a retry the client has its Started already.
        if (this.#startedSent) return;
        this.#startedSent = true;
      } else {
        this.#state = { kind: "relaying", attempt };
        if (this.#spec.method === Method.GENERATE) attempt.firstToken();
      }
    }
    if (!this.#delivery.push(bytes, start, end)) this.#cutSlowClient();
  }

  #onTokens(count: number): void {
    const { kind } = this.#state;
    if (kind === "relaying" || kind === "started") this.#tally.relayed(count, this.#parts.clock.monotonicMs());
    else this.#tally.wasted(count);
  }

  #onEnd(end: CallEnd, picked: Picked): void {
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
      return this.#delivery.finish();
    }
    const beginsAnew = state.kind === "relaying" && this.#delivery.restart();
    if (beginsAnew) this.#startedSent = false;
    const isPart = state.kind === "relaying" && !beginsAnew;
    // Whoever has a part of an answer must know what the part is worth.
    const advice = isPart ? " What came before is valid but incomplete; call again." : "";
    const error = new MeshError(end.reason, `${end.message}${advice}`, { field: end.field, limit: end.limit });
    const mayRetry = !isPart && this.#attempts < this.#parts.settings.maxAttempts;
    const { health } = this.#parts;
    if (mayRetry && mayRetryElsewhere(end.reason) && health.mayRetry(picked.deployment)) this.#retry(picked, error);
    else this.#fail(error, end.usage);
  }

  #retry(picked: Picked, error: MeshError): void {
    this.#parts.metrics.retried(error.row.openAiCode ?? "");
    this.#placement.failed(picked, error);
    this.#tally.restart();
    this.#state = { kind: "placing" };
    this.#take(this.#placement.choose());
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
      case "placing":
      case "waiting":
        this.#leaveWaiting();
        this.#settle(outcome, error, undefined);
        return true;
      case "dispatched":
      case "started":
      case "relaying": {
        const { clock, settings } = this.#parts;
        const timer = clock.setTimer(settings.cancelGraceMs, () => this.#settle(outcome, error, undefined));
        this.#state = { kind: "cancelling", outcome, error, timer };
        state.attempt.link.cancel();
        return true;
      }
      case "cancelling":
      case "settled":
        return false;
      default:
        return unreachable(state);
    }
  }

  #fail(error: MeshError, usage: Usage | undefined): void {
    this.#settle(Outcome.FAILED, error, usage);
    this.#delivery.fail(error);
  }

  /** Once, on every path. */
  #settle(outcome: Outcome, error: MeshError | undefined, usage: Usage | undefined): void {
    if (this.#state.kind === "settled") return;
    this.#state = { kind: "settled" };
    const { clock, settle, queues } = this.#parts;
    const { context, model, labels, permit, span, startedAtMs } = this.#spec;
    this.#deadline.cancel();
    permit.release();
    const counted = this.#tally.result(usage, this.#startMs);
    if (this.#picked) {
      queues.charge(this.#picked.deployment, context.principal.projectId, counted.completionTokens);
    }
    const settlement = {
      ...counted,
      context,
      model: this.#picked?.model ?? model,
      deployment: this.#picked?.deployment ?? "",
      nodeId: this.#picked?.nodeId ?? "",
      outcome,
      error,
      startedAtMs,
      durationMs: clock.monotonicMs() - this.#startMs,
      waitedMs: this.#waitedMs,
      attempts: this.#attempts,
      labels,
    };
    settle(settlement, span);
  }
}

function deadlineExceeded(timeoutMs: number): MeshError {
  const limit = `${Math.round(timeoutMs)} ms`;
  return new MeshError(Reason.DEADLINE_EXCEEDED, `The call took longer than ${limit}, its limit.`, { limit });
}

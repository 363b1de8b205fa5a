import { create } from "@bufbuild/protobuf";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { FinishReason } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { type CallEnd, CallEndSchema, type StartCall } from "#gen/helixmesh/link/v1/link_pb.ts";
import { Outcome, type Usage, UsageRecordSchema } from "#gen/helixmesh/type/v1/type_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { type Span, startSpan } from "#kernel/trace.ts";
import type { CallSink } from "../link/index.ts";
import type { CallEnvironment } from "./call-environment.ts";
import type { MethodName } from "./call-metrics.ts";

/** https://opentelemetry.io/docs/specs/semconv/registry/attributes/gen-ai/, gen_ai.operation.name; the last is our own. */
export type Operation = "chat" | "text_completion" | "embeddings" | "count_tokens";

const methods: Readonly<Record<Operation, MethodName>> = {
  chat: "generate",
  text_completion: "generate",
  embeddings: "embed",
  count_tokens: "count_tokens",
};

/** What a call came to. */
export interface CallOutcome {
  /** Of the whole call, also where another node began it. */
  readonly usage: Usage;
  /** Completion tokens that another node generated before. */
  readonly tokensElsewhere?: number;
  /** An engine here took the call, so it counts as used whatever its end. */
  readonly taken: boolean;
  readonly labels: Record<string, string>;
  /** Of each choice. */
  readonly finishReasons?: readonly FinishReason[];
}

/**
 * The bookkeeping that every call shares: one end on the link, one usage record if an engine took it, one set of
 * metrics, one span, and the deadline.
 */
export class CallRecord {
  readonly #environment: CallEnvironment;
  readonly #start: StartCall;
  readonly #sink: CallSink;
  readonly #method: MethodName;
  readonly #span: Span;
  readonly #startedMonotonicMs: number;
  /** Of the next usage record: the call's start, or when another router took it up. */
  #reportAtMs: number;
  #reportMonotonicMs: number;
  readonly #deadline: { cancel(): void } | undefined;
  #ttftMs = 0;
  #ended = false;
  /** Its router is gone, and what it used until then is written down: the rest is on nobody, unless it is resumed. */
  #orphaned = false;
  /** Of a call that ended as an orphan. */
  #unwritten: (() => void) | undefined;

  constructor(
    environment: CallEnvironment,
    start: StartCall,
    sink: CallSink,
    operation: Operation,
    onDeadline: (error: MeshError) => void,
  ) {
    this.#environment = environment;
    this.#start = start;
    this.#sink = sink;
    this.#method = methods[operation];
    const { clock, metrics } = environment;
    this.#reportAtMs = clock.nowMs();
    this.#reportMonotonicMs = this.#startedMonotonicMs = clock.monotonicMs();
    metrics.started();
    this.#span = startSpan(`${operation} ${start.model}`, {
      kind: "server",
      traceparent: start.traceparent,
      attributes: () => ({
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "helixmesh",
        "gen_ai.request.model": start.model,
        "helixmesh.call_id": start.callId,
        "helixmesh.replica_id": start.replicaId,
      }),
    });
    const timeoutMs = Number(start.timeoutMs);
    if (timeoutMs > 0) {
      this.#deadline = clock.setTimer(timeoutMs, () => {
        onDeadline(new MeshError(Reason.DEADLINE_EXCEEDED, `The call's deadline passed after ${timeoutMs} ms.`));
      });
    }
  }

  get ended(): boolean {
    return this.#ended;
  }

  firstToken(): void {
    this.#ttftMs = this.#environment.clock.monotonicMs() - this.#startedMonotonicMs;
    this.#environment.metrics.firstToken(this.#ttftMs);
  }

  /** Once; later calls do nothing. */
  end(error: MeshError | undefined, outcome: CallOutcome): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#deadline?.cancel();
    const { clock, logger, metrics } = this.#environment;
    const { callId, model } = this.#start;
    const { usage, taken } = outcome;
    const durationMs = clock.monotonicMs() - this.#startedMonotonicMs;
    metrics.ended(this.#method, error, durationMs);
    this.#span.setAttributes(() => ({
      "gen_ai.response.model": model,
      "gen_ai.response.id": callId,
      "gen_ai.usage.input_tokens": usage.promptTokens,
      "gen_ai.usage.output_tokens": usage.completionTokens,
      "gen_ai.usage.cache_read.input_tokens": usage.cachedTokens,
      "helixmesh.continued_tokens": outcome.tokensElsewhere ?? 0,
      ...(outcome.finishReasons && { "gen_ai.response.finish_reasons": outcome.finishReasons.map(finishReasonName) }),
      ...(this.#ttftMs > 0 && { "helixmesh.time_to_first_token_ms": this.#ttftMs }),
    }));
    if (error !== undefined) this.#span.fail(error);
    this.#span.end();
    if (error?.reason === Reason.INTERNAL) logger.error("call failed", { callId, model, error });
    else logger.debug("call ended", { callId, model, outcome: error?.message ?? "completed", durationMs });
    if (taken) {
      metrics.tokens({ ...usage, completionTokens: usage.completionTokens - (outcome.tokensElsewhere ?? 0) });
      if (this.#orphaned) this.#unwritten = () => this.#writeUsage(error, outcome);
      else this.#writeUsage(error, outcome);
    }
    this.#sink.end(callEnd(error, usage));
  }

  /** Its router is gone: writes down what it used so far, as if it had been cancelled. */
  orphan(soFar: CallOutcome): void {
    if (this.#orphaned || this.#ended) return;
    this.#orphaned = true;
    if (soFar.taken) this.#writeUsage(new MeshError(Reason.CANCELLED, "The link to the router ended."), soFar);
  }

  /** Another router took it up, whose record will say the whole; so does a second one of ours, with a later start. */
  adopt(): void {
    if (!this.#orphaned) return;
    const { clock } = this.#environment;
    this.#orphaned = false;
    this.#reportAtMs = Math.max(clock.nowMs(), this.#reportAtMs + 1);
    this.#reportMonotonicMs = clock.monotonicMs();
    this.#unwritten?.();
    this.#unwritten = undefined;
  }

  #writeUsage(error: MeshError | undefined, { usage, labels }: CallOutcome): void {
    const { clock, nodeId, recordUsage } = this.#environment;
    const { callId, model, deployment } = this.#start;
    recordUsage(
      create(UsageRecordSchema, {
        callId,
        model,
        deployment,
        nodeId: nodeId(),
        outcome: outcomeOf(error),
        reason: outcomeOf(error) === Outcome.FAILED ? (error?.reason ?? Reason.INTERNAL) : Reason.UNSPECIFIED,
        usage,
        startedAtMs: BigInt(this.#reportAtMs),
        durationMs: BigInt(Math.round(clock.monotonicMs() - this.#reportMonotonicMs)),
        ttftMs: BigInt(Math.round(this.#ttftMs)),
        labels,
      }),
    );
  }
}

/** As OpenAI calls them, which is what the conventions show. */
function finishReasonName(reason: FinishReason): string {
  switch (reason) {
    case FinishReason.STOP:
      return "stop";
    case FinishReason.LENGTH:
      return "length";
    case FinishReason.TOOL_CALLS:
      return "tool_calls";
    default:
      return "error";
  }
}

function outcomeOf(error: MeshError | undefined): Outcome {
  if (error === undefined) return Outcome.COMPLETED;
  return error.reason === Reason.CANCELLED ? Outcome.CANCELLED : Outcome.FAILED;
}

function callEnd(error: MeshError | undefined, usage: Usage): CallEnd {
  if (error === undefined) return create(CallEndSchema, { usage });
  const { reason, message, field, limit } = error;
  return create(CallEndSchema, { reason, message, field, limit, usage });
}

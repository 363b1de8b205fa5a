import { create } from "@bufbuild/protobuf";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { type CallEnd, CallEndSchema, type StartCall } from "#gen/helixmesh/link/v1/link_pb.ts";
import { Outcome, type Usage, UsageRecordSchema } from "#gen/helixmesh/type/v1/type_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { type Span, startSpan } from "#kernel/trace.ts";
import type { CallSink } from "../link/index.ts";
import type { CallEnvironment } from "./call-environment.ts";
import type { MethodName } from "./call-metrics.ts";

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
  readonly #startedAtMs: number;
  readonly #startedMonotonicMs: number;
  readonly #deadline: { cancel(): void } | undefined;
  #ttftMs = 0;
  #ended = false;

  constructor(
    environment: CallEnvironment,
    start: StartCall,
    sink: CallSink,
    method: MethodName,
    onDeadline: (error: MeshError) => void,
  ) {
    this.#environment = environment;
    this.#start = start;
    this.#sink = sink;
    this.#method = method;
    const { clock, metrics } = environment;
    this.#startedAtMs = clock.nowMs();
    this.#startedMonotonicMs = clock.monotonicMs();
    metrics.started();
    this.#span = startSpan(`${method} ${start.model}`, {
      kind: "server",
      traceparent: start.traceparent,
      attributes: {
        "gen_ai.operation.name": method === "embed" ? "embeddings" : method,
        "gen_ai.request.model": start.model,
        "helixmesh.call_id": start.callId,
        "helixmesh.replica_id": start.replicaId,
      },
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

  /** `taken`: an engine took the call, so it counts as used whatever its outcome. Once. */
  end(error: MeshError | undefined, usage: Usage, taken: boolean, labels: Record<string, string>): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#deadline?.cancel();
    const { clock, logger, metrics, nodeId, recordUsage } = this.#environment;
    const { callId, model, deployment } = this.#start;
    const durationMs = clock.monotonicMs() - this.#startedMonotonicMs;
    metrics.ended(this.#method, error, durationMs);
    this.#span.setAttributes({
      "gen_ai.usage.input_tokens": usage.promptTokens,
      "gen_ai.usage.output_tokens": usage.completionTokens,
    });
    if (error !== undefined) this.#span.fail(error);
    this.#span.end();
    if (error?.reason === Reason.INTERNAL) logger.error("call failed", { callId, model, error });
    else logger.debug("call ended", { callId, model, outcome: error?.message ?? "completed", durationMs });
    if (taken) {
      metrics.tokens(usage);
      recordUsage(
        create(UsageRecordSchema, {
          callId,
          model,
          deployment,
          nodeId: nodeId(),
          outcome: outcomeOf(error),
          reason: outcomeOf(error) === Outcome.FAILED ? (error?.reason ?? Reason.INTERNAL) : Reason.UNSPECIFIED,
          usage,
          startedAtMs: BigInt(this.#startedAtMs),
          durationMs: BigInt(Math.round(durationMs)),
          ttftMs: BigInt(Math.round(this.#ttftMs)),
          labels,
        }),
      );
    }
    this.#sink.end(callEnd(error, usage));
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

import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { Outcome } from "#gen/helixmesh/type/v1/type_pb.ts";
import type { LineFields, Logger } from "#kernel/log.ts";
import type { MeshError } from "#kernel/mesh-error.ts";
import type { Span } from "#kernel/trace.ts";
import type { UsageFields } from "#kernel/usage-record.ts";
import type { CallMetrics } from "./call-metrics.ts";
import type { CallContext } from "./calls.ts";

/** Everything there is to say about a call that is over. */
export interface Settlement {
  readonly context: CallContext;
  /** As resolved; empty when it was refused before that. */
  readonly model: string;
  /** Empty, like the node, when no attempt was dispatched. */
  readonly deployment: string;
  readonly nodeId: string;
  readonly outcome: Outcome;
  /** Set unless the outcome is completed. */
  readonly error: MeshError | undefined;
  readonly promptTokens: number;
  readonly cachedTokens: number;
  readonly completionTokens: number;
  /** Unix milliseconds. */
  readonly startedAtMs: number;
  readonly durationMs: number;
  /** Undefined when no token came. */
  readonly ttftMs: number | undefined;
  /** Mean between the tokens after the first; undefined with fewer than two steps. */
  readonly interTokenMs: number | undefined;
  /** Time without a ready replica. */
  readonly waitedMs: number;
  readonly attempts: number;
  /** How often it went on elsewhere after output. */
  readonly moves: number;
  readonly labels: Readonly<Record<string, string>>;
}

export interface SettleOptions {
  readonly usage: { record(record: UsageFields): void };
  readonly metrics: CallMetrics;
  readonly logger: Logger;
}

export type Settle = (settlement: Settlement, span: Span) => void;

/** The one place where a call is accounted for: one usage record, one set of metrics, one span, one log line. */
export function createSettle({ usage, metrics, logger }: SettleOptions): Settle {
  const log = settledLine(logger);
  return (settlement, span) => {
    // A call that was refused before it had a model used nothing: there is nothing to pay.
    if (settlement.model !== "") usage.record(usageRecord(settlement));
    metrics.settled(settlement);
    endSpan(settlement, span);
    log(settlement);
  };
}

function usageRecord(settlement: Settlement): UsageFields {
  const { context, outcome, error } = settlement;
  return {
    callId: context.callId,
    keyId: context.principal.keyId,
    projectId: context.principal.projectId,
    model: settlement.model,
    deployment: settlement.deployment,
    nodeId: settlement.nodeId,
    door: context.door,
    outcome,
    reason: outcome === Outcome.FAILED ? (error?.reason ?? Reason.INTERNAL) : Reason.UNSPECIFIED,
    usage: settlement,
    startedAtMs: settlement.startedAtMs,
    durationMs: Math.round(settlement.durationMs),
    // 0 means that there was no token; one that came within half a millisecond did come.
    ttftMs: settlement.ttftMs === undefined ? 0 : Math.max(1, Math.round(settlement.ttftMs)),
    labels: settlement.labels,
    attempts: settlement.attempts,
  };
}

/** Attributes: https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/ */
function endSpan(settlement: Settlement, span: Span): void {
  const { outcome, error } = settlement;
  span.setAttributes(() => ({
    "gen_ai.response.model": settlement.model,
    "gen_ai.response.id": settlement.context.callId,
    "gen_ai.usage.input_tokens": settlement.promptTokens,
    "gen_ai.usage.output_tokens": settlement.completionTokens,
    "helixmesh.deployment": settlement.deployment,
    "helixmesh.node.id": settlement.nodeId,
    "helixmesh.attempts": settlement.attempts,
    "helixmesh.moves": settlement.moves,
    ...(settlement.ttftMs !== undefined && { "helixmesh.time_to_first_token_ms": settlement.ttftMs }),
    ...(error && { "error.type": error.row.openAiCode ?? "unknown" }),
  }));
  if (outcome === Outcome.FAILED && error) span.fail(error);
  span.end();
}

const lineFields: LineFields<Settlement> = {
  callId: ({ context }) => context.callId,
  door: ({ context }) => context.door,
  keyId: ({ context }) => context.principal.keyId,
  model: ({ model }) => model,
  deployment: ({ deployment }) => deployment,
  nodeId: ({ nodeId }) => nodeId,
  outcome: ({ outcome }) => outcomeName(outcome),
  promptTokens: ({ promptTokens }) => promptTokens,
  cachedTokens: ({ cachedTokens }) => cachedTokens,
  completionTokens: ({ completionTokens }) => completionTokens,
  durationMs: ({ durationMs }) => Math.round(durationMs),
  ttftMs: ({ ttftMs }) => (ttftMs === undefined ? undefined : Math.round(ttftMs)),
  attempts: ({ attempts }) => attempts,
  moves: ({ moves }) => moves,
  reason: ({ error }) => error?.row.openAiCode ?? undefined,
  detail: ({ error }) => error?.message,
};

function settledLine(logger: Logger): (settlement: Settlement) => void {
  const info = logger.lines("call", lineFields);
  return (settlement) => {
    const { error } = settlement;
    if (error?.reason !== Reason.INTERNAL) return info(settlement);
    // A fault of ours comes with its causes; a caller's mistake is described by its message.
    const fields = Object.entries(lineFields).map(([name, read]) => [name, read(settlement)]);
    logger.error("call", { ...Object.fromEntries(fields), error });
  };
}

export function outcomeName(outcome: Outcome): string {
  switch (outcome) {
    case Outcome.COMPLETED:
      return "completed";
    case Outcome.CANCELLED:
      return "cancelled";
    default:
      return "failed";
  }
}

import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { Outcome, type UsageRecord } from "#gen/helixmesh/type/v1/type_pb.ts";
import { type Price, effectivePrice } from "../prices/prices.ts";
import { costNanos } from "./cost.ts";

/** A record as it goes into the tables: a JSON object of an array that jsonb_to_recordset reads. */
export interface UsageRow {
  readonly call_id: string;
  readonly key_id: string;
  readonly project_id: string;
  readonly model: string;
  readonly deployment: string;
  readonly node_id: string;
  readonly door: string;
  readonly outcome: Outcome;
  readonly reason: Reason;
  readonly prompt_tokens: number;
  readonly cached_tokens: number;
  readonly completion_tokens: number;
  readonly started_at_ms: number;
  readonly duration_ms: number;
  readonly ttft_ms: number;
  readonly labels: Readonly<Record<string, string>>;
  readonly attempts: number;
  /** Decimal digits: JSON numbers lose the last ones. Null when no price counted at started_at_ms. */
  readonly cost_nanos: string | null;
}

export interface ToRow {
  readonly row: UsageRow;
  /** What had to be changed for the ledger to take it; empty for a sound record. */
  readonly mended: readonly string[];
}

const largestInstantMs = Date.UTC(9999, 11, 31);
const longestText = 512;

/**
 * A record that the tables cannot hold would come again for ever and keep all later ones from being shipped: what is
 * wrong with it is mended here, and said, never refused. Undefined for one without a call id, which nothing can be
 * merged by.
 */
export function toUsageRow(record: UsageRecord, pricesOfModel: readonly Price[] | undefined): ToRow | undefined {
  if (record.callId === "") return undefined;
  const mended: string[] = [];

  function text(field: string, value: string): string {
    // PostgreSQL holds no zero characters.
    const held = value.replaceAll("\0", "\u{fffd}").slice(0, longestText);
    if (held !== value) mended.push(field);
    return held;
  }

  function whole(field: string, value: bigint, largest: number): number {
    const held = value < 0n ? 0 : value > BigInt(largest) ? largest : Number(value);
    if (BigInt(held) !== value) mended.push(field);
    return held;
  }

  const prompt = record.usage?.promptTokens ?? 0;
  const cached = Math.min(record.usage?.cachedTokens ?? 0, prompt);
  const completion = record.usage?.completionTokens ?? 0;
  if (cached !== (record.usage?.cachedTokens ?? 0)) mended.push("usage.cached_tokens");
  const startedAtMs = whole("started_at_ms", record.startedAtMs, largestInstantMs);
  const price = effectivePrice(pricesOfModel, startedAtMs);
  const tokens = { promptTokens: BigInt(prompt), cachedTokens: BigInt(cached), completionTokens: BigInt(completion) };
  const row: UsageRow = {
    call_id: text("call_id", record.callId),
    key_id: text("key_id", record.keyId),
    project_id: text("project_id", record.projectId),
    model: text("model", record.model),
    deployment: text("deployment", record.deployment),
    node_id: text("node_id", record.nodeId),
    door: text("door", record.door),
    outcome: record.outcome,
    reason: record.reason,
    prompt_tokens: prompt,
    cached_tokens: cached,
    completion_tokens: completion,
    started_at_ms: startedAtMs,
    duration_ms: whole("duration_ms", record.durationMs, Number.MAX_SAFE_INTEGER),
    ttft_ms: whole("ttft_ms", record.ttftMs, Number.MAX_SAFE_INTEGER),
    labels: Object.fromEntries(
      Object.entries(record.labels).map(([name, value]) => [text("labels", name), text("labels", value)]),
    ),
    attempts: record.attempts,
    cost_nanos: price ? costNanos(tokens, price).toString() : null,
  };
  return { row, mended };
}

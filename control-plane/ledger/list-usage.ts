import { create } from "@bufbuild/protobuf";
import {
  type ListUsageRequest,
  type ListUsageResponse,
  ListUsageResponseSchema,
  type UsageEntry,
  UsageEntrySchema,
} from "#gen/helixmesh/control/v1/control_pb.ts";
import type { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import type { Outcome } from "#gen/helixmesh/type/v1/type_pb.ts";
import type { Sql } from "../store/database.ts";
import { decodePageToken, encodePageToken, pageSizeOf } from "../store/page.ts";
import { usageCondition } from "./usage-filter.ts";

interface EntryRow {
  readonly callId: string;
  readonly keyId: string;
  readonly projectId: string;
  readonly model: string;
  readonly deployment: string;
  readonly nodeId: string;
  readonly door: string;
  readonly outcome: Outcome;
  readonly reason: Reason;
  readonly promptTokens: bigint;
  readonly cachedTokens: bigint;
  readonly completionTokens: bigint;
  readonly startedAtMs: number;
  readonly durationMs: bigint;
  readonly ttftMs: bigint;
  readonly labels: Record<string, string>;
  readonly attempts: bigint;
  readonly costNanos: bigint | null;
  /** Null when the agent of the serving node has not reported. */
  readonly agentPromptTokens: bigint | null;
  readonly agentCachedTokens: bigint | null;
  readonly agentCompletionTokens: bigint | null;
}

/** Newest first. Pages by (started_at, call_id), so calls that settle meanwhile neither repeat nor hide others. */
export async function listUsage(sql: Sql, request: ListUsageRequest): Promise<ListUsageResponse> {
  const size = pageSizeOf(request.pageSize);
  const after = decodePageToken<[number, string]>(request.pageToken, [0, ""]);
  const rows = await sql<EntryRow[]>`
    SELECT u.call_id, u.key_id, u.project_id, u.model, u.deployment, u.node_id, u.door, u.outcome, u.reason,
      u.prompt_tokens, u.cached_tokens, u.completion_tokens, u.started_at AS started_at_ms, u.duration_ms, u.ttft_ms,
      u.labels, u.attempts, u.cost_nanos, a.prompt_tokens AS agent_prompt_tokens,
      a.cached_tokens AS agent_cached_tokens, a.completion_tokens AS agent_completion_tokens
    FROM usage_records u
    LEFT JOIN LATERAL (
      SELECT * FROM usage_agent_reports WHERE call_id = u.call_id AND node_id = u.node_id ORDER BY started_at DESC LIMIT 1
    ) a ON true
    WHERE ${usageCondition(sql, request.filter)}
      ${after ? sql`AND (u.started_at, u.call_id) < (${sql.types.instant(after[0])}, ${after[1]})` : sql``}
    ORDER BY u.started_at DESC, u.call_id DESC LIMIT ${size + 1}`;
  const last = rows.length > size ? rows[size - 1] : undefined;
  return create(ListUsageResponseSchema, {
    entries: rows.slice(0, size).map(toEntry),
    nextPageToken: last ? encodePageToken([last.startedAtMs, last.callId]) : "",
  });
}

function toEntry(row: EntryRow): UsageEntry {
  const { callId, keyId, projectId, model, deployment, nodeId, door, outcome, reason, durationMs, ttftMs, labels } =
    row;
  return create(UsageEntrySchema, {
    record: {
      callId,
      keyId,
      projectId,
      model,
      deployment,
      nodeId,
      door,
      outcome,
      reason,
      durationMs,
      ttftMs,
      labels,
      startedAtMs: BigInt(row.startedAtMs),
      attempts: Number(row.attempts),
      usage: {
        promptTokens: Number(row.promptTokens),
        cachedTokens: Number(row.cachedTokens),
        completionTokens: Number(row.completionTokens),
      },
    },
    ...(row.costNanos !== null && { costNanos: row.costNanos }),
    ...(row.agentPromptTokens !== null && {
      agentUsage: {
        promptTokens: Number(row.agentPromptTokens),
        cachedTokens: Number(row.agentCachedTokens),
        completionTokens: Number(row.agentCompletionTokens),
      },
    }),
  });
}

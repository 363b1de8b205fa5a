import { create } from "@bufbuild/protobuf";
import {
  type SummarizeUsageRequest,
  UsageDimension,
  type UsageSummary,
  UsageSummarySchema,
} from "#gen/helixmesh/control/v1/control_pb.ts";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { Outcome } from "#gen/helixmesh/type/v1/type_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import type { Sql } from "../store/database.ts";
import { usageCondition } from "./usage-filter.ts";

const largestSummaries = 10_000;

interface SummaryRow {
  readonly groups: readonly string[];
  readonly calls: bigint;
  readonly failedCalls: bigint;
  /** Sums of bigint are numeric in PostgreSQL, which arrives as text. */
  readonly promptTokens: string;
  readonly cachedTokens: string;
  readonly completionTokens: string;
  readonly costNanos: string;
  readonly unpricedCalls: bigint;
}

/** Sums per group, sorted by group; with no dimension one total, of zeros where nothing was used. */
export async function summarizeUsage(sql: Sql, request: SummarizeUsageRequest): Promise<UsageSummary[]> {
  const dimensions = request.groupBy.map((dimension, index) => dimensionColumn(sql, dimension, index));
  const groups = dimensions.length === 0 ? sql`'{}'::text[]` : sql`ARRAY[${commaSeparated(sql, dimensions)}]`;
  const rows = await sql<SummaryRow[]>`
    SELECT ${groups} AS groups,
      count(*) AS calls,
      count(*) FILTER (WHERE u.outcome <> ${Outcome.COMPLETED}) AS failed_calls,
      coalesce(sum(u.prompt_tokens), 0) AS prompt_tokens,
      coalesce(sum(u.cached_tokens), 0) AS cached_tokens,
      coalesce(sum(u.completion_tokens), 0) AS completion_tokens,
      coalesce(sum(u.cost_nanos), 0) AS cost_nanos,
      count(*) FILTER (WHERE u.cost_nanos IS NULL) AS unpriced_calls
    FROM usage_records u WHERE ${usageCondition(sql, request.filter)}
    ${dimensions.length === 0 ? sql`` : sql`GROUP BY 1 ORDER BY 1`} LIMIT ${largestSummaries + 1}`;
  if (rows.length > largestSummaries) {
    throw new MeshError(
      Reason.INVALID_REQUEST,
      `group_by gives more than ${largestSummaries} sums; narrow the filter or group by fewer dimensions.`,
      { field: "group_by", limit: `${largestSummaries} sums` },
    );
  }
  return rows.map((row) =>
    create(UsageSummarySchema, {
      group: [...row.groups],
      calls: row.calls,
      failedCalls: row.failedCalls,
      promptTokens: BigInt(row.promptTokens),
      cachedTokens: BigInt(row.cachedTokens),
      completionTokens: BigInt(row.completionTokens),
      costNanos: BigInt(row.costNanos),
      unpricedCalls: row.unpricedCalls,
    }),
  );
}

type Fragment = ReturnType<Sql>;

function dimensionColumn(sql: Sql, dimension: UsageDimension, index: number): Fragment {
  switch (dimension) {
    case UsageDimension.MODEL:
      return sql`u.model`;
    case UsageDimension.KEY:
      return sql`u.key_id`;
    case UsageDimension.PROJECT:
      return sql`u.project_id`;
    case UsageDimension.NODE:
      return sql`u.node_id`;
    case UsageDimension.DAY:
      return sql`to_char(u.started_at AT TIME ZONE 'UTC', 'YYYY-MM-DD')`;
    default:
      throw new MeshError(
        Reason.INVALID_REQUEST,
        `group_by[${index}] is ${dimension}; use MODEL, KEY, PROJECT, DAY or NODE.`,
        {
          field: `group_by[${index}]`,
        },
      );
  }
}

function commaSeparated(sql: Sql, fragments: readonly Fragment[]): Fragment[] {
  return fragments.map((fragment, index) => (index === 0 ? fragment : sql`, ${fragment}`));
}

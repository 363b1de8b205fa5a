import type { UsageFilter } from "#gen/helixmesh/control/v1/control_pb.ts";
import type { Sql } from "../store/database.ts";

const largestInstantMs = Date.UTC(9999, 11, 31);

/** A condition on usage_records, alias `u`. Unset fields match all. */
export function usageCondition(sql: Sql, filter: UsageFilter | undefined) {
  const { fromMs = 0n, toMs = 0n, keyId = "", project = "", model = "" } = filter ?? {};
  return sql`u.started_at >= ${sql.types.instant(instantOf(fromMs))}
    ${toMs === 0n ? sql`` : sql`AND u.started_at < ${sql.types.instant(instantOf(toMs))}`}
    ${keyId === "" ? sql`` : sql`AND u.key_id = ${keyId}`}
    ${project === "" ? sql`` : sql`AND u.project_id = ${project}`}
    ${model === "" ? sql`` : sql`AND u.model = ${model}`}`;
}

function instantOf(ms: bigint): number {
  return ms > BigInt(largestInstantMs) ? largestInstantMs : Number(ms);
}

import { Outcome } from "#gen/helixmesh/type/v1/type_pb.ts";
import type { Sql, Transaction } from "../store/database.ts";
import type { UsageRow } from "./usage-row.ts";

export type Reporter =
  | { readonly kind: "router"; readonly routerId: string }
  | { readonly kind: "agent"; readonly nodeId: string };

/** What became of the rows of one batch. */
export interface Recorded {
  /** Call ids that the ledger did not have from this kind of reporter. */
  readonly added: readonly string[];
  /** Reports that came before; nothing changed. */
  readonly repeated: number;
  /** Call ids that an earlier, different call of the same caller-given name has; kept under a longer name. */
  readonly renamed: readonly string[];
}

/**
 * All rows or none. A router's view replaces an agent's. After that nothing changes a row but the view of a router that
 * saw more of the call: one that lives on without its client reports the beginning, one that resumed it the whole.
 */
export function recordRows(sql: Sql, reporter: Reporter, rows: readonly UsageRow[], nowMs: number): Promise<Recorded> {
  return sql.begin((transaction) =>
    reporter.kind === "router"
      ? recordRouterRows(transaction, reporter.routerId, rows, nowMs)
      : recordAgentRows(transaction, reporter.nodeId, rows, nowMs),
  );
}

/**
 * One call as its router knows it. The call id alone is not enough: callers may name their calls (x-request-id), and one
 * that gives every call the same name must still pay for each.
 */
function identityOf(row: { readonly key_id: string; readonly started_at_ms: number }): string {
  return `${row.key_id}~${row.started_at_ms}`;
}

async function recordRouterRows(
  sql: Transaction,
  routerId: string,
  rows: readonly UsageRow[],
  nowMs: number,
): Promise<Recorded> {
  const firsts = new Map<string, UsageRow>();
  const rest: UsageRow[] = [];
  for (const row of rows) {
    if (firsts.has(row.call_id)) rest.push(row);
    else firsts.set(row.call_id, row);
  }
  const added = await upsertRouterRows(sql, routerId, [...firsts.values()], nowMs);
  const isNew = new Set(added);
  rest.push(...[...firsts.values()].filter((row) => !isNew.has(row.call_id)));
  if (rest.length === 0) return { added, repeated: 0, renamed: [] };

  const held = await sql<{ callId: string; keyId: string; startedAtMs: number }[]>`
    SELECT call_id, key_id, started_at AS started_at_ms FROM usage_records
    WHERE call_id = ANY(${sql.array(rest.map((row) => row.call_id))})`;
  const identities = new Map(
    held.map(({ callId, keyId, startedAtMs }) => [callId, identityOf({ key_id: keyId, started_at_ms: startedAtMs })]),
  );
  const others = new Map<string, UsageRow>();
  for (const row of rest) {
    if (identities.get(row.call_id) === identityOf(row)) continue;
    const callId = `${row.call_id}~${identityOf(row)}`;
    others.set(callId, { ...row, call_id: callId });
  }
  const renamed = await upsertRouterRows(sql, routerId, [...others.values()], nowMs);
  return { added: [...added, ...renamed], repeated: rows.length - added.length - renamed.length, renamed };
}

async function upsertRouterRows(
  sql: Transaction,
  routerId: string,
  rows: readonly UsageRow[],
  nowMs: number,
): Promise<string[]> {
  if (rows.length === 0) return [];
  // Sorted: routers and agents report the same calls at the same time, and locks taken in one order never deadlock.
  const result = await sql<{ callId: string }[]>`
    INSERT INTO usage_records AS held (
      router_id, call_id, key_id, project_id, model, deployment, node_id, door, outcome, reason, prompt_tokens,
      cached_tokens, completion_tokens, started_at, duration_ms, ttft_ms, labels, attempts, cost_nanos, recorded_at)
    SELECT ${routerId}, ${recordColumns(sql)}, ${sql.types.instant(nowMs)} FROM ${recordset(sql, rows)} ORDER BY call_id
    ON CONFLICT (call_id) DO UPDATE SET
      router_id = excluded.router_id, ${replaced(sql)}
    WHERE held.router_id IS NULL
       OR (held.key_id = excluded.key_id AND held.started_at = excluded.started_at
           AND (held.completion_tokens, held.outcome = ${Outcome.COMPLETED})
             < (excluded.completion_tokens, excluded.outcome = ${Outcome.COMPLETED}))
    RETURNING call_id`;
  return result.map((row) => row.callId);
}

async function recordAgentRows(
  sql: Transaction,
  nodeId: string,
  rows: readonly UsageRow[],
  nowMs: number,
): Promise<Recorded> {
  const own = rows.map((row) => ({ ...row, node_id: nodeId }));
  const added = await sql<{ callId: string }[]>`
    INSERT INTO usage_agent_reports (
      call_id, node_id, model, deployment, outcome, reason, prompt_tokens, cached_tokens, completion_tokens, started_at,
      duration_ms, ttft_ms, recorded_at)
    SELECT call_id, node_id, model, deployment, outcome, reason, prompt_tokens, cached_tokens, completion_tokens,
           ${startedAt(sql)}, duration_ms, ttft_ms, ${sql.types.instant(nowMs)}
    FROM ${recordset(sql, own)} ORDER BY call_id
    ON CONFLICT DO NOTHING RETURNING call_id`;
  // Of several attempts the latest stands for the call until its router reports; the order of arrival plays no part.
  await sql`
    INSERT INTO usage_records AS held (
      call_id, key_id, project_id, model, deployment, node_id, door, outcome, reason, prompt_tokens, cached_tokens,
      completion_tokens, started_at, duration_ms, ttft_ms, labels, attempts, cost_nanos, recorded_at)
    SELECT ${recordColumns(sql)}, ${sql.types.instant(nowMs)}
    FROM (SELECT DISTINCT ON (call_id) * FROM ${recordset(sql, own)} ORDER BY call_id, started_at_ms DESC) latest
    ORDER BY call_id
    ON CONFLICT (call_id) DO UPDATE SET ${replaced(sql)}
    WHERE held.router_id IS NULL AND (excluded.started_at, excluded.node_id) > (held.started_at, held.node_id)`;
  return { added: added.map((row) => row.callId), repeated: rows.length - added.length, renamed: [] };
}

function recordset(sql: Transaction, rows: readonly UsageRow[]) {
  return sql`jsonb_to_recordset(${sql.json(rows.map((row) => ({ ...row })))}) AS report (
    call_id text, key_id text, project_id text, model text, deployment text, node_id text, door text, outcome smallint,
    reason smallint, prompt_tokens bigint, cached_tokens bigint, completion_tokens bigint, started_at_ms bigint,
    duration_ms bigint, ttft_ms bigint, labels jsonb, attempts bigint, cost_nanos bigint)`;
}

/** Numeric division first: a double would round the milliseconds. */
function startedAt(sql: Transaction) {
  return sql`'epoch'::timestamptz + started_at_ms * interval '1 ms'`;
}

/** From call_id to cost_nanos, in the order of the inserts above. */
function recordColumns(sql: Transaction) {
  return sql`call_id, key_id, project_id, model, deployment, node_id, door, outcome, reason, prompt_tokens, cached_tokens,
    completion_tokens, ${startedAt(sql)}, duration_ms, ttft_ms, labels, attempts, cost_nanos`;
}

function replaced(sql: Transaction) {
  return sql`key_id = excluded.key_id, project_id = excluded.project_id, model = excluded.model,
    deployment = excluded.deployment, node_id = excluded.node_id, door = excluded.door, outcome = excluded.outcome,
    reason = excluded.reason, prompt_tokens = excluded.prompt_tokens, cached_tokens = excluded.cached_tokens,
    completion_tokens = excluded.completion_tokens, started_at = excluded.started_at,
    duration_ms = excluded.duration_ms, ttft_ms = excluded.ttft_ms, labels = excluded.labels,
    attempts = excluded.attempts, cost_nanos = excluded.cost_nanos, recorded_at = excluded.recorded_at`;
}

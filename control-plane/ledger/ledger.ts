import type {
  ListUsageRequest,
  ListUsageResponse,
  SummarizeUsageRequest,
  UsageSummary,
} from "#gen/helixmesh/control/v1/control_pb.ts";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import type { UsageRecord } from "#gen/helixmesh/type/v1/type_pb.ts";
import type { Clock } from "#kernel/clock.ts";
import type { Logger } from "#kernel/log.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import type { Metrics } from "#kernel/metrics.ts";
import { pricesOf } from "../prices/prices.ts";
import type { Database } from "../store/database.ts";
import { listUsage } from "./list-usage.ts";
import { type Recorded, type Reporter, recordRows } from "./record-usage.ts";
import { summarizeUsage } from "./summarize-usage.ts";
import { type UsageRow, toUsageRow } from "./usage-row.ts";

/** Every settled call, once. */
export interface Ledger {
  /**
   * Commits a batch of at most 1,000 records, all or none; once it resolves, the reporter may forget them. Repeats of a
   * reporter change nothing. The cost is that of the price in force when the call started.
   */
  recordUsage(records: readonly UsageRecord[], reporter: Reporter): Promise<Recorded>;
  summarizeUsage(request: SummarizeUsageRequest): Promise<UsageSummary[]>;
  listUsage(request: ListUsageRequest): Promise<ListUsageResponse>;
}

export interface LedgerOptions {
  readonly database: Database;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly metrics: Metrics;
}

const largestBatch = 1_000;

export function createLedger({ database, clock, logger, metrics }: LedgerOptions): Ledger {
  const { sql } = database;
  const reports = metrics.counter("ledger_reports_total", "Usage reports by what became of them.", [
    "reporter",
    "result",
  ]);
  const unpriced = metrics.counter("ledger_unpriced_calls_total", "Settled calls of models without a price.");

  async function recordUsage(records: readonly UsageRecord[], reporter: Reporter): Promise<Recorded> {
    if (records.length > largestBatch) {
      throw new MeshError(
        Reason.INVALID_REQUEST,
        `records has ${records.length} entries; send at most ${largestBatch} at once.`,
        {
          field: "records",
          limit: `${largestBatch} records`,
        },
      );
    }
    const prices = await pricesOf(
      sql,
      records.map((record) => record.model),
    );
    const rows: UsageRow[] = [];
    for (const record of records) {
      const converted = toUsageRow(record, prices.get(record.model));
      if (!converted) {
        logger.error("a usage record without call id was left out of the ledger", { reporter, keyId: record.keyId });
        reports.inc({ reporter: reporter.kind, result: "nameless" });
        continue;
      }
      if (converted.mended.length > 0) {
        logger.warn("a usage record was mended", { reporter, callId: converted.row.call_id, fields: converted.mended });
        reports.inc({ reporter: reporter.kind, result: "mended" });
      }
      rows.push(converted.row);
    }
    const recorded = await recordRows(sql, reporter, rows, clock.nowMs());
    count(reporter, rows, recorded);
    return recorded;
  }

  function count(reporter: Reporter, rows: readonly UsageRow[], { added, repeated, renamed }: Recorded): void {
    reports.inc({ reporter: reporter.kind, result: "added" }, added.length);
    reports.inc({ reporter: reporter.kind, result: "repeated" }, repeated);
    if (renamed.length > 0) {
      reports.inc({ reporter: reporter.kind, result: "renamed" }, renamed.length);
      logger.warn("calls came with the id of an earlier call; they are in the ledger under a longer one", {
        reporter,
        calls: renamed.length,
        example: renamed[0],
      });
    }
    if (reporter.kind === "agent") return;
    const isNew = new Set(added);
    unpriced.inc(rows.filter((row) => row.cost_nanos === null && isNew.has(row.call_id)).length);
  }

  return {
    recordUsage,
    summarizeUsage: (request) => summarizeUsage(sql, request),
    listUsage: (request) => listUsage(sql, request),
  };
}

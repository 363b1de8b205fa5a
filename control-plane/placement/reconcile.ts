import type { Clock } from "#kernel/clock.ts";
import type { Logger } from "#kernel/log.ts";
import type { Metrics } from "#kernel/metrics.ts";
import { newId } from "#kernel/random.ts";
import { expireLeases } from "../nodes/leases.ts";
import type { Sql, Transaction } from "../store/database.ts";
import { type LoadedSnapshot, loadSnapshot } from "./load-snapshot.ts";
import { type PlacementPlan, place } from "./place.ts";

/** Held by the control plane that places; any constant will do: "place" in ASCII. */
const advisoryLock = 0x706c616365n;

export interface ReconcileOptions {
  readonly sql: Sql;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly metrics: Metrics;
  readonly leaseMs: number;
  readonly offlineGraceMs: number;
}

export type ReconcileOutcome = "changed" | "unchanged" | "elsewhere" | "failed";

/**
 * Brings what is placed closer to what is wanted: leases that ended are written down, `place` decides, and its effects
 * are committed, all in one transaction under an advisory lock, so that of several control planes one acts.
 *
 * Leases are judged only after heartbeats could be heard for a whole lease time. After a start, a database that was
 * away, or a machine that slept, every lease looks expired though no node is at fault.
 */
export class Reconciler {
  readonly #options: ReconcileOptions;
  readonly #runs;
  #judgeAfterMs: number;
  #lastSuccessMs: number;

  constructor(options: ReconcileOptions) {
    this.#options = options;
    this.#runs = options.metrics.counter("reconcile_runs_total", "Placement runs by outcome.", ["outcome"]);
    this.#lastSuccessMs = options.clock.monotonicMs();
    this.#judgeAfterMs = this.#lastSuccessMs + options.leaseMs;
  }

  /** Never rejects: a run that failed is logged and counted, and the next one starts from the truth. */
  async run(): Promise<ReconcileOutcome> {
    const { clock, leaseMs, logger } = this.#options;
    const startedMs = clock.monotonicMs();
    if (startedMs - this.#lastSuccessMs > leaseMs) this.#judgeAfterMs = startedMs + leaseMs;
    let outcome: ReconcileOutcome;
    try {
      outcome = await this.#options.sql.begin((transaction) => this.#reconcile(transaction, startedMs));
      this.#lastSuccessMs = clock.monotonicMs();
    } catch (error) {
      logger.error("reconcile failed", { error });
      outcome = "failed";
    }
    this.#runs.inc({ outcome });
    return outcome;
  }

  async #reconcile(transaction: Transaction, startedMs: number): Promise<ReconcileOutcome> {
    const { logger, offlineGraceMs } = this.#options;
    const [lock] = await transaction<{ held: boolean }[]>`
      SELECT pg_try_advisory_xact_lock(${advisoryLock}) AS held`;
    if (!lock?.held) return "elsewhere";
    const expired = startedMs >= this.#judgeAfterMs ? await expireLeases(transaction) : [];
    if (expired.length > 0) logger.warn("nodes went offline: their leases ended", { nodes: expired });
    const snapshot = await loadSnapshot(transaction, offlineGraceMs);
    const plan = place(snapshot);
    await writeReasons(transaction, snapshot, plan);
    const steps = plan.create.length + plan.drain.length + plan.remove.length;
    if (steps === 0) return expired.length > 0 ? "changed" : "unchanged";
    await carryOut(transaction, snapshot, plan);
    logger.info("placement changed", { create: plan.create, drain: plan.drain, remove: plan.remove });
    return "changed";
  }
}

async function carryOut(transaction: Transaction, snapshot: LoadedSnapshot, plan: PlacementPlan): Promise<void> {
  for (const { deployment, nodeId } of plan.create) {
    const frozen = snapshot.specs.get(deployment);
    if (!frozen) continue;
    const { spec, generation } = frozen;
    await transaction`
      INSERT INTO replicas (id, deployment, node_id, spec, generation, created_at)
      VALUES (${newId("replica")}, ${deployment}, ${nodeId},
              ${transaction.json({ ...spec, engineOptions: { ...spec.engineOptions } })}, ${generation}, now())`;
  }
  if (plan.drain.length > 0) {
    await transaction`UPDATE replicas SET draining = true WHERE id = ANY(${[...plan.drain]}::text[])`;
  }
  if (plan.remove.length > 0) {
    await transaction`DELETE FROM replicas WHERE id = ANY(${[...plan.remove]}::text[])`;
  }
}

async function writeReasons(transaction: Transaction, snapshot: LoadedSnapshot, plan: PlacementPlan): Promise<void> {
  const reasons = new Map(plan.unplaced.map(({ deployment, reason }) => [deployment, reason]));
  for (const [name, before] of snapshot.unplacedReasons) {
    const reason = reasons.get(name) ?? "";
    if (reason !== before) {
      await transaction`UPDATE deployments SET unplaced_reason = ${reason} WHERE name = ${name}`;
    }
  }
}

import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import type { Clock } from "#kernel/clock.ts";
import type { Metrics } from "#kernel/metrics.ts";
import type { Random } from "#kernel/random.ts";
import { Breaker } from "./breaker.ts";
import { ExtraWorkBudget } from "./extra-work-budget.ts";
import { type FailureMetrics, failureMetrics } from "./failure-metrics.ts";
import { Outliers } from "./outliers.ts";

export interface HealthSettings {
  /** Most replicas of a deployment that are ejected at once. */
  readonly ejectPercent: number;
  /** Most retries per 100 calls of a deployment. */
  readonly retryPercent: number;
}

export interface HealthOptions {
  readonly settings: HealthSettings;
  readonly clock: Clock;
  readonly random: Random;
  readonly metrics: Metrics;
}

/** Retries, of late, that a deployment with few calls has in any case. */
const retryFloor = 10;

interface ReplicaHealth {
  readonly deployment: DeploymentHealth;
  readonly breaker: Breaker;
}

interface DeploymentHealth {
  readonly name: string;
  readonly outliers: Outliers;
  readonly retries: ExtraWorkBudget;
  readonly hedges: ExtraWorkBudget;
}

/** The one place that is told how attempts fare, and says who should get no calls and whether to try again. */
export class Health {
  readonly #options: HealthOptions;
  readonly #metrics: FailureMetrics;
  readonly #replicas = new Map<string, ReplicaHealth>();
  readonly #deployments = new Map<string, DeploymentHealth>();
  /** Those with a breaker that is not closed, and the ejected: few, so that asking about all costs little. */
  readonly #suspects = new Set<string>();

  constructor(options: HealthOptions) {
    this.#options = options;
    this.#metrics = failureMetrics(options.metrics);
  }

  /**
   * Replicas that should get no calls now. When no other can take a call, these may after all: a bad replica is better
   * than none.
   */
  avoided(): ReadonlySet<string> {
    if (this.#suspects.size === 0) return nobody;
    const avoided = new Set<string>();
    const nowMs = this.#options.clock.monotonicMs();
    for (const replicaId of this.#suspects) {
      const replica = this.#replicas.get(replicaId);
      const ejected = replica?.deployment.outliers.isEjected(replicaId, nowMs) ?? false;
      if (ejected || (replica && !replica.breaker.mayTake(nowMs))) avoided.add(replicaId);
      else if (!replica || replica.breaker.kind === "closed") this.#suspects.delete(replicaId);
    }
    this.#metrics.avoided(avoided.size);
    return avoided;
  }

  mayTake(replicaId: string): boolean {
    return !this.avoided().has(replicaId);
  }

  /** A call of the deployment began, before its first attempt. */
  called(deployment: string): void {
    const nowMs = this.#options.clock.monotonicMs();
    const { retries, hedges } = this.#deployment(deployment);
    retries.called(nowMs);
    hedges.called(nowMs);
  }

  /** An attempt goes to the replica; `succeeded` or `failed` follows, or both when it fails after its first token. */
  dispatched(replicaId: string, deployment: string): void {
    const { breaker } = this.#replica(replicaId, deployment);
    if (breaker.kind !== "closed") breaker.dispatched(this.#options.clock.monotonicMs());
  }

  /** Its first token came, `ttftMs` after the dispatch. */
  succeeded(replicaId: string, ttftMs: number): void {
    const replica = this.#replicas.get(replicaId);
    if (!replica) return;
    const nowMs = this.#options.clock.monotonicMs();
    replica.breaker.succeeded(nowMs);
    replica.deployment.outliers.answered(replicaId, ttftMs, nowMs);
    this.#compare(replica.deployment, nowMs);
  }

  /** The attempt ended with `reason`; only those that are the replica's fault count against it. */
  failed(replicaId: string, reason: Reason): void {
    const replica = this.#replicas.get(replicaId);
    if (!replica) return;
    const nowMs = this.#options.clock.monotonicMs();
    if (!isReplicasFault(reason)) return replica.breaker.abandoned(nowMs);
    replica.deployment.outliers.failed(replicaId, nowMs);
    if (replica.breaker.failed(nowMs)) {
      this.#metrics.breakerOpened(replica.deployment.name);
      this.#suspects.add(replicaId);
    }
    this.#compare(replica.deployment, nowMs);
  }

  /** Whether a failed attempt may be made again; the retry is spent if so. */
  mayRetry(deployment: string): boolean {
    const { retries } = this.#deployment(deployment);
    const { settings, clock } = this.#options;
    const may = retries.spend(settings.retryPercent, retryFloor, clock.monotonicMs());
    if (!may) this.#metrics.retryRefused(deployment);
    return may;
  }

  /** Whether a call may be given to a second replica, `percent` of 100 calls at most; it is spent if so. */
  mayHedge(deployment: string, percent: number, saturated: boolean): boolean {
    const nowMs = this.#options.clock.monotonicMs();
    const may = !saturated && this.#deployment(deployment).hedges.spend(percent, 1, nowMs);
    if (!may) this.#metrics.hedgeRefused(deployment, saturated ? "saturated" : "budget");
    return may;
  }

  /** Forgets what is no longer there. */
  keep(replicas: { has(replicaId: string): boolean }, deployments: { has(name: string): boolean }): void {
    for (const [replicaId, { deployment }] of this.#replicas) {
      if (replicas.has(replicaId)) continue;
      deployment.outliers.forget(replicaId);
      this.#replicas.delete(replicaId);
      this.#suspects.delete(replicaId);
    }
    for (const name of this.#deployments.keys()) if (!deployments.has(name)) this.#deployments.delete(name);
  }

  #compare(deployment: DeploymentHealth, nowMs: number): void {
    for (const { replicaId, why } of deployment.outliers.compare(nowMs)) {
      this.#metrics.ejected(deployment.name, why);
      this.#suspects.add(replicaId);
    }
  }

  #replica(replicaId: string, deployment: string): ReplicaHealth {
    let replica = this.#replicas.get(replicaId);
    if (!replica) {
      replica = { deployment: this.#deployment(deployment), breaker: new Breaker(this.#options.random) };
      this.#replicas.set(replicaId, replica);
    }
    return replica;
  }

  #deployment(name: string): DeploymentHealth {
    let deployment = this.#deployments.get(name);
    if (!deployment) {
      const outliers = new Outliers(this.#options.settings.ejectPercent);
      deployment = { name, outliers, retries: new ExtraWorkBudget(), hedges: new ExtraWorkBudget() };
      this.#deployments.set(name, deployment);
    }
    return deployment;
  }
}

const nobody: ReadonlySet<string> = new Set();

/**
 * Not the caller's mistakes, cancels and deadlines, not an engine that is full (that is measured as load), not a node
 * that says itself that it takes no calls, and not a moved call that was begun in other words elsewhere.
 */
function isReplicasFault(reason: Reason): boolean {
  switch (reason) {
    case Reason.NODE_LOST:
    case Reason.ENGINE_FAILED:
    case Reason.ENGINE_STALLED:
    case Reason.INTERNAL:
      return true;
    default:
      return false;
  }
}

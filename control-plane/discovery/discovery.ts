import type { Clock } from "#kernel/clock.ts";
import type { Logger } from "#kernel/log.ts";
import type { Metrics } from "#kernel/metrics.ts";
import type { Sql } from "../store/database.ts";
import { type LoadedState, loadState } from "./load-state.ts";
import { MeshWatch } from "./mesh-watch.ts";
import { NodeWatch } from "./node-watch.ts";

export interface DiscoveryOptions {
  readonly sql: Sql;
  readonly linkSecret: string;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly metrics: Metrics;
  readonly queueLimit: number;
  readonly signOfLifeMs: number;
}

/** Reads the watched state and hands it to all watchers. */
export class Discovery {
  readonly mesh: MeshWatch;
  readonly nodes: NodeWatch;
  readonly #options: DiscoveryOptions;
  readonly #refreshes;
  readonly #nodeGauge;
  readonly #replicaGauge;
  #failure: string | undefined;

  constructor(options: DiscoveryOptions) {
    this.#options = options;
    this.mesh = new MeshWatch(options);
    this.nodes = new NodeWatch(options);
    this.#refreshes = options.metrics.counter("discovery_refreshes_total", "Reads of the watched state.", ["outcome"]);
    this.#nodeGauge = options.metrics.gauge("nodes", "Registered nodes.", ["state"]);
    this.#replicaGauge = options.metrics.gauge("replicas", "Placed replicas by last reported state.", ["state"]);
  }

  /** Why the last read failed; undefined when it did not. */
  get failure(): string | undefined {
    return this.#failure;
  }

  /** Never rejects: while the database does not answer, watchers keep what they have. */
  async refresh(): Promise<void> {
    const { sql, clock, linkSecret, logger } = this.#options;
    let loaded: LoadedState;
    try {
      loaded = await loadState(sql, clock, linkSecret);
    } catch (error) {
      logger.error("reading the watched state failed", { error });
      this.#failure = "the database does not answer";
      this.#refreshes.inc({ outcome: "failed" });
      return;
    }
    this.#failure = undefined;
    this.#refreshes.inc({ outcome: "ok" });
    for (const [state, count] of Object.entries(loaded.counts.nodes)) this.#nodeGauge.set({ state }, count);
    for (const [state, count] of Object.entries(loaded.counts.replicas)) this.#replicaGauge.set({ state }, count);
    this.mesh.update(loaded.mesh, loaded.version);
    this.nodes.update(loaded.desired);
  }

  close(): void {
    this.mesh.close();
    this.nodes.close();
  }
}

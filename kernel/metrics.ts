import { AggregatorRegistry, Gauge, Registry, collectDefaultMetrics } from "prom-client";
import { Counter, type MetricConfig } from "#kernel/counter.ts";
import { Histogram } from "#kernel/histogram.ts";
import { invariant } from "#kernel/invariant.ts";

/** What a page of metrics is made of. */
export interface MetricsPage {
  /** The Prometheus text exposition. */
  text(): Promise<string>;
  readonly contentType: string;
}

/** The metrics of one service. Every name gets the prefix `helixmesh_`, every line the label `service`. */
export class Metrics implements MetricsPage {
  readonly #registry = new Registry();
  readonly #made = new Map<string, object>();

  constructor(service: string) {
    this.#registry.setDefaultLabels({ service });
  }

  /** Adds CPU, memory, event loop and garbage collection of this process; once per process. */
  observeProcess(): void {
    collectDefaultMetrics({ register: this.#registry, prefix: "helixmesh_" });
  }

  /** In a worker of node:cluster: its primary may ask for them. */
  shareWithPrimary(): void {
    AggregatorRegistry.setRegistries([this.#registry]);
    // It listens for the primary from its construction on.
    void new AggregatorRegistry();
  }

  /** Asking twice for one name gives the same metric. Names of counters end in `_total`. */
  counter<L extends string = never>(name: string, help: string, labels: readonly L[] = []): Counter<L> {
    const made = this.#once(name, () => new Counter(this.#config(name, help, labels)));
    invariant(made instanceof Counter, `metric ${name} is declared as two kinds`);
    return made;
  }

  /** `ofWorkers`: what the workers of one service make together where a sum says nothing (workers-metrics.ts). */
  gauge<L extends string = never>(
    name: string,
    help: string,
    labels: readonly L[] = [],
    ofWorkers: "sum" | "min" = "sum",
  ): Gauge<L> {
    const made = this.#once(name, () => new Gauge({ ...this.#config(name, help, labels), aggregator: ofWorkers }));
    invariant(made instanceof Gauge, `metric ${name} is declared as two kinds`);
    return made;
  }

  /** A gauge that is read when it is asked for: of what changes with every call. Once for each name. */
  follow(name: string, help: string, read: () => number): void {
    invariant(!this.#made.has(name), `metric ${name} is declared twice`);
    this.#once(
      name,
      () =>
        new Gauge({
          ...this.#config(name, help, []),
          collect() {
            this.set(read());
          },
        }),
    );
  }

  /** `buckets`: ascending upper bounds, in the unit that the name ends with. */
  histogram<L extends string = never>(
    name: string,
    help: string,
    labels: readonly L[],
    buckets: readonly number[],
  ): Histogram<L> {
    const made = this.#once(name, () => new Histogram({ ...this.#config(name, help, labels), buckets }));
    invariant(made instanceof Histogram, `metric ${name} is declared as two kinds`);
    return made;
  }

  /** The Prometheus text exposition of everything declared. */
  text(): Promise<string> {
    return this.#registry.metrics();
  }

  get contentType(): string {
    return this.#registry.contentType;
  }

  #once(name: string, make: () => object): object {
    let made = this.#made.get(name);
    if (!made) this.#made.set(name, (made = make()));
    return made;
  }

  #config<L extends string>(name: string, help: string, labelNames: readonly L[]): MetricConfig<L> {
    return { name: `helixmesh_${name}`, help, labelNames, registers: [this.#registry] };
  }
}

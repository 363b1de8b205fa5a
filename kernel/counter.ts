import * as prom from "prom-client";
import { type LabelValues, MetricSeries } from "#kernel/metric-series.ts";

export interface MetricConfig<L extends string> {
  readonly name: string;
  readonly help: string;
  readonly labelNames: readonly L[];
  readonly registers: prom.Registry[];
}

/** Is added to with every call and read seldom: prom-client gets the sums when it is asked for them. */
export class Counter<L extends string = never> {
  readonly #series: MetricSeries<L, { pending: number }>;

  constructor(config: MetricConfig<L>) {
    const series = new MetricSeries(config.labelNames, () => ({ pending: 0 }));
    this.#series = series;
    void new prom.Counter<L>({
      ...config,
      collect() {
        for (const { labels, series: sum } of series.all) {
          this.inc(labels ?? {}, sum.pending);
          sum.pending = 0;
        }
      },
    });
  }

  /** `by` is at least 0. */
  inc(by?: number): void;
  inc(labels: LabelValues<L>, by?: number): void;
  inc(first: LabelValues<L> | number = 1, by = 1): void {
    if (typeof first === "number") this.#series.of(undefined).pending += first;
    else this.#series.of(first).pending += by;
  }
}

import * as prom from "prom-client";
import type { MetricConfig } from "#kernel/counter.ts";
import { type LabelValues, MetricSeries } from "#kernel/metric-series.ts";

/** `counts[i]`: observations in bucket i alone, the last for those above every bound. */
interface Observations {
  readonly counts: Float64Array;
  sum: number;
}

/** Is observed with every call and read seldom: counted here, and shaped for prom-client when it is asked for. */
export class Histogram<L extends string = never> {
  readonly #bounds: readonly number[];
  readonly #series: MetricSeries<L, Observations>;

  /** `buckets`: ascending upper bounds. */
  constructor(config: MetricConfig<L> & { readonly buckets: readonly number[] }) {
    const { name, buckets, labelNames } = config;
    this.#bounds = buckets;
    this.#series = new MetricSeries(labelNames, () => ({ counts: new Float64Array(buckets.length + 1), sum: 0 }));
    const series = this.#series;
    // Without labels it is there before its first observation, as all of prom-client's are.
    if (labelNames.length === 0) series.of(undefined);
    void new Exposed({ ...config, buckets: [...buckets] }, () =>
      series.all.flatMap(({ labels, series: observed }) => exposed(name, labels ?? {}, buckets, observed)),
    );
  }

  observe(value: number): void;
  observe(labels: LabelValues<L>, value: number): void;
  observe(first: LabelValues<L> | number, value = 0): void {
    if (typeof first === "number") this.#add(this.#series.of(undefined), first);
    else this.#add(this.#series.of(first), value);
  }

  #add(observed: Observations, value: number): void {
    const bounds = this.#bounds;
    let bucket = 0;
    while (bucket < bounds.length && value > (bounds[bucket] as number)) bucket++;
    observed.counts[bucket] = (observed.counts[bucket] as number) + 1;
    observed.sum += value;
  }
}

type Values = prom.MetricValueWithName<string>[];

/** Buckets add up: https://prometheus.io/docs/concepts/metric_types/#histogram */
function exposed(name: string, labels: object, bounds: readonly number[], { counts, sum }: Observations): Values {
  let count = 0;
  const buckets = Array.from(counts, (here, index) => {
    count += here;
    return { metricName: `${name}_bucket`, labels: { le: bounds[index] ?? "+Inf", ...labels }, value: count };
  });
  return [
    ...buckets,
    { metricName: `${name}_sum`, labels: { ...labels }, value: sum },
    { metricName: `${name}_count`, labels: { ...labels }, value: count },
  ];
}

/** What the registry knows, and shares between processes. */
class Exposed<L extends string> extends prom.Histogram<L> {
  readonly #shape: prom.Histogram<L>;
  readonly #values: () => Values;

  constructor(config: prom.HistogramConfiguration<L>, values: () => Values) {
    super(config);
    this.#shape = new prom.Histogram({ ...config, registers: [] });
    this.#values = values;
  }

  override async get(): Promise<prom.MetricObjectWithValues<prom.MetricValueWithName<L>>> {
    return { ...(await this.#shape.get()), values: this.#values() };
  }

  /** What prom-client asks instead of `get` for its text; its own would know of no observation. */
  getForPromString(): Promise<prom.MetricObjectWithValues<prom.MetricValueWithName<L>>> {
    return this.get();
  }
}

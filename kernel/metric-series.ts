/** One value for each label. */
export type LabelValues<L extends string> = Readonly<Record<L, string>>;

interface Level<S> {
  readonly next: Map<string, Level<S>>;
  series: S | undefined;
}

/** What one metric keeps for each set of label values, found without making a key of them. */
export class MetricSeries<L extends string, S> {
  readonly all: { readonly labels: LabelValues<L> | undefined; readonly series: S }[] = [];
  readonly #names: readonly L[];
  readonly #make: () => S;
  readonly #root: Level<S> = newLevel();

  constructor(names: readonly L[], make: () => S) {
    this.#names = names;
    this.#make = make;
  }

  /** Undefined where there are no labels. */
  of(labels: LabelValues<L> | undefined): S {
    let level = this.#root;
    for (const name of this.#names) {
      const value = labels?.[name] ?? "";
      let next = level.next.get(value);
      if (!next) level.next.set(value, (next = newLevel()));
      level = next;
    }
    if (level.series === undefined) {
      level.series = this.#make();
      this.all.push({ labels, series: level.series });
    }
    return level.series;
  }
}

function newLevel<S>(): Level<S> {
  return { next: new Map<string, Level<S>>(), series: undefined };
}

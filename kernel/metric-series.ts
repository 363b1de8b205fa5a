/** One value for each label. */
export type LabelValues<L extends string> = Readonly<Record<L, string>>;

interface Level<S> {
  readonly next: Map<string, Level<S>>;
  /** The value asked for last and where it leads, since most calls are like the one before. */
  lastValue: string | undefined;
  last: Level<S> | undefined;
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
      level = level.lastValue === value && level.last ? level.last : nextLevel(level, value);
    }
    if (level.series === undefined) {
      level.series = this.#make();
      this.all.push({ labels, series: level.series });
    }
    return level.series;
  }
}

function nextLevel<S>(level: Level<S>, value: string): Level<S> {
  let next = level.next.get(value);
  if (!next) level.next.set(value, (next = newLevel()));
  level.lastValue = value;
  level.last = next;
  return next;
}

function newLevel<S>(): Level<S> {
  return { next: new Map<string, Level<S>>(), lastValue: undefined, last: undefined, series: undefined };
}

/**
 * Runs sources side by side, at most `limit` at once, and yields what they bring as it comes, with the source's index.
 * Order holds within a source. The first failure ends it; the caller then aborts what still runs.
 */
export async function* merge<T>(
  sources: readonly (() => AsyncIterable<T>)[],
  limit: number,
): AsyncGenerator<readonly [index: number, value: T]> {
  const [only] = sources;
  if (only && sources.length === 1) {
    for await (const value of only()) yield [0, value];
    return;
  }
  type Step = { readonly index: number; readonly iterator: AsyncIterator<T>; readonly result: IteratorResult<T> };
  const running = new Map<number, Promise<Step>>();
  let started = 0;
  function advance(index: number, iterator: AsyncIterator<T>): void {
    const step = iterator.next().then((result) => ({ index, iterator, result }));
    running.set(index, step);
    // The race below reports it; after the race was left, nobody needs it any more.
    step.catch(() => {});
  }
  for (;;) {
    for (; running.size < limit && started < sources.length; started++) {
      const iterator = sources[started]?.()[Symbol.asyncIterator]();
      if (iterator) advance(started, iterator);
    }
    if (running.size === 0) return;
    const { index, iterator, result } = await Promise.race(running.values());
    if (result.done === true) {
      running.delete(index);
    } else {
      advance(index, iterator);
      yield [index, result.value];
    }
  }
}

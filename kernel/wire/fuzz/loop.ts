import type { Random } from "#kernel/random.ts";
import type { Coverage } from "#kernel/wire/fuzz/coverage.ts";
import { mutate, pick } from "#kernel/wire/fuzz/mutate.ts";

export interface FuzzTarget {
  readonly name: string;
  /** Inputs that are valid, to begin with. */
  readonly seeds: readonly Buffer[];
  /** Where HTTP/2 frames begin in an input, if it is made of them. */
  readonly framesFrom?: number;
  /** Throws when something does not hold. Returns the kind of the outcome, of which there are few. */
  run(input: Buffer): string | Promise<string>;
}

export interface FuzzOptions {
  readonly target: FuzzTarget;
  /** Kept from earlier runs, beside the target's seeds. */
  readonly corpus: readonly Buffer[];
  /** Without it only new kinds of outcome lead on. */
  readonly coverage?: Coverage | undefined;
  readonly random: Random;
  /** Asked after each batch. */
  readonly goesOn: (state: FuzzState) => boolean;
}

export interface FuzzState {
  readonly executions: number;
  readonly corpus: readonly Buffer[];
  readonly failure: Failure | undefined;
}

export interface Failure {
  readonly input: Buffer;
  readonly error: unknown;
}

/** Executions between two looks at the coverage, which cost as much as some hundred of them. */
const batchSize = 256;
/** Kinds of outcome beyond it lead to nothing new. */
const mostKinds = 2_000;

/**
 * Mutates inputs, and keeps those that ran code, or ended in a way, that none before did: they are mutated further. The
 * same random numbers give the same run. Ends at the first input that fails.
 */
export async function fuzz(options: FuzzOptions): Promise<FuzzState> {
  const { target, coverage, random, goesOn } = options;
  const corpus: Buffer[] = [];
  const kinds = new Set<string>();
  let executions = 0;
  let failure: Failure | undefined;

  /** True: the input ended in a way that is new. */
  async function execute(input: Buffer): Promise<boolean> {
    executions++;
    try {
      const kind = await target.run(input);
      if (kinds.has(kind) || kinds.size >= mostKinds) return false;
      kinds.add(kind);
      return true;
    } catch (error) {
      failure = { input, error };
      return false;
    }
  }

  /** Adds those that run what none did before, found by halves: looking at the coverage is what costs. */
  async function sieve(inputs: readonly Buffer[]): Promise<void> {
    const [first] = inputs;
    if (!first || failure) return;
    for (const input of inputs) await execute(input);
    if (!coverage || coverage.peek() === 0) return;
    if (inputs.length > 1) {
      const half = Math.ceil(inputs.length / 2);
      await sieve(inputs.slice(0, half));
      return sieve(inputs.slice(half));
    }
    await execute(first);
    coverage.take();
    corpus.push(first);
  }

  coverage?.peek();
  const begin = [...target.seeds, ...options.corpus];
  await sieve(begin);
  if (corpus.length === 0) corpus.push(...begin);
  while (!failure && goesOn({ executions, corpus, failure })) {
    const batch: Buffer[] = [];
    while (!failure && batch.length < batchSize) {
      // Half of them from the newest tenth: there the frontier is.
      const newest = corpus.slice(-Math.ceil(corpus.length / 10));
      const parent = pick(random.next() < 0.5 ? newest : corpus, random);
      const input = mutate(parent, pick(corpus, random), target.framesFrom, random);
      batch.push(input);
      if (await execute(input)) corpus.push(input);
    }
    if (!failure && coverage && coverage.peek() > 0) await sieve(batch);
  }
  return { executions, corpus, failure };
}

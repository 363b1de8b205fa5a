import type { Contestant } from "../contestants/contestant.ts";
import { type Row, median, ourName, rounded } from "../report.ts";
import type { Job, Outcome } from "./job.ts";
import type { BedProcess } from "./parent.ts";

export type Outcomes = ReadonlyMap<string, readonly Outcome[]>;
/** What a case asks for; the contestant fills in the rest. */
export type Shape = Omit<Job, "port" | "key" | "headers" | "pid" | "warmUpMs" | "measureMs">;

export interface Pace {
  readonly repeats: number;
  readonly warmUpMs: number;
  readonly measureMs: number;
}

/** Runs contestants one after another on the same work, and remembers how much each was given. */
export class Arena {
  readonly #load: BedProcess;
  /** Calls by contestant's name, over everything. */
  readonly started = new Map<string, number>();

  constructor(load: BedProcess) {
    this.#load = load;
  }

  /** @throws Error when a call did not get exactly its answer */
  async run(contestant: Contestant, shape: Shape, pace: Omit<Pace, "repeats">): Promise<Outcome> {
    const { name, key, pid, headers, grpcPort, openAiPort } = contestant;
    const port = shape.protocol === "grpc" ? (grpcPort ?? 0) : openAiPort;
    const { warmUpMs, measureMs } = pace;
    const job: Job = { ...shape, port, key, pid, warmUpMs, measureMs, ...(headers === undefined ? {} : { headers }) };
    const outcome = await this.#load.ask<Outcome>("run", job).catch((error: unknown) => {
      throw new Error(`${name}: ${error instanceof Error ? error.message : String(error)}`, { cause: error });
    });
    this.started.set(name, (this.started.get(name) ?? 0) + outcome.started);
    return outcome;
  }

  /**
   * For a contestant whose code is compiled as it runs, and needs seconds of each new shape to reach what it does for the
   * rest of its life: `compileMs` of it with steps of a millisecond, which is more of the same in less time.
   * @param beat sets the engines' step
   */
  async compile(
    contestant: Contestant,
    shape: Shape,
    beat: (stepMs: number) => Promise<void>,
    compileMs: number,
  ): Promise<void> {
    const stepMs = Math.min(shape.stepMs, 1);
    await beat(stepMs);
    await this.run(contestant, { ...shape, stepMs }, { warmUpMs: compileMs, measureMs: 300 });
    await beat(shape.stepMs);
  }

  /** Repeats are interleaved, and each begins with another contestant, so that none has the quiet moments. */
  async compare(
    label: string,
    contestants: readonly Contestant[],
    shape: Shape | ((contestant: Contestant) => Shape),
    pace: Pace,
  ): Promise<Outcomes> {
    const outcomes = new Map<string, Outcome[]>(contestants.map(({ name }) => [name, []]));
    for (let repeat = 0; repeat < pace.repeats; repeat++) {
      for (let turn = 0; turn < contestants.length; turn++) {
        const contestant = contestants[(turn + repeat) % contestants.length];
        if (contestant === undefined) continue;
        const work = typeof shape === "function" ? shape(contestant) : shape;
        const outcome = await this.run(contestant, work, pace);
        outcomes.get(contestant.name)?.push(outcome);
        console.log(`  ${label}, ${contestant.name}: ${describe(outcome, work, contestant.pid > 0)}`);
      }
    }
    return outcomes;
  }
}

/** Engines or clients that cannot keep the beat make tokens come in lumps, which are cheaper to relay: then it is said. */
function describe(outcome: Outcome, shape: Shape, hasProcess: boolean): string {
  const { calls, tokens, seconds, cpuSeconds } = outcome;
  const { connections, streams, stepMs, arrivalsPerS } = shape;
  const rates = `${(calls / seconds).toFixed(0)} calls/s, ${(tokens / seconds).toFixed(0)} tokens/s`;
  const busy = hasProcess ? `, CPU ${((cpuSeconds / seconds) * 100).toFixed(0)} %` : "";
  const beat = stepMs === 0 || arrivalsPerS !== undefined ? Infinity : (connections * streams * 1_000) / stepMs;
  const share = tokens / seconds / beat;
  return `${rates}${busy}${share > 0 && share < 0.9 ? ` (${(share * 100).toFixed(0)} % of the engines' beat)` : ""}`;
}

export interface RowOptions {
  readonly case: string;
  readonly metric: string;
  readonly unit: string;
  readonly read: (outcome: Outcome, repeat: number) => number;
  /** From the peers' values, in the row's unit; ours must not exceed it. */
  readonly goal?: (peers: Readonly<Record<string, number>>) => number | undefined;
}

/** Medians of the repeats, with their spread. */
export function rowOf(outcomes: Outcomes, options: RowOptions): Row {
  const medians: Record<string, number> = {};
  const spread: Record<string, readonly [number, number]> = {};
  for (const [name, all] of outcomes) {
    const values = all.map(options.read);
    medians[name] = rounded(median(values));
    if (values.length > 1) spread[name] = [rounded(Math.min(...values)), rounded(Math.max(...values))];
  }
  const { [ourName]: ours = Number.NaN, ...peers } = medians;
  const wanted = options.goal?.(peers);
  const goal = wanted === undefined ? null : rounded(wanted);
  const { metric, unit } = options;
  return { case: options.case, metric, unit, ours, peers, goal, met: goal === null ? null : ours <= goal, spread };
}

export const usPerToken = ({ cpuSeconds, tokens }: Outcome): number => (cpuSeconds * 1e6) / tokens;
export const usPerCall = ({ cpuSeconds, calls }: Outcome): number => (cpuSeconds * 1e6) / calls;

import { setTimeout as sleep } from "node:timers/promises";
import { Arena, type Outcomes, type Pace, type Shape, rowOf, usPerCall, usPerToken } from "./bed/arena.ts";
import { Backends } from "./bed/backends.ts";
import { otherCores, pinThisProcess } from "./bed/cores.ts";
import { idleEngine } from "./bed/engine.ts";
import type { Percentiles } from "./bed/job.ts";
import { BedProcess } from "./bed/parent.ts";
import type { Contestant } from "./contestants/contestant.ts";
import { startHaproxy } from "./contestants/haproxy.ts";
import { startNginx } from "./contestants/nginx.ts";
import { startRouter } from "./contestants/router.ts";
import { benchFlags } from "./flags.ts";
import { type Row, machine, ourName, publish, rounded, show } from "./report.ts";
import { systemToolVersion } from "./tools.ts";

interface Case {
  readonly name: string;
  readonly agents: number;
  readonly shape: Shape;
  readonly per: "token" | "request";
  readonly goal?: (peers: Readonly<Record<string, number>>) => number;
}

const stream = { protocol: "grpc", tokens: 64, promptBytes: 100, stepMs: 10 } as const;
const sixteen = { ...stream, connections: 16, streams: 16 };
const single = { ...stream, connections: 256, streams: 1 };
const wide = { ...stream, connections: 2, streams: 128 };
const asHaproxy = (peers: Readonly<Record<string, number>>): number => peers["HAProxy"] ?? 0;
const halfOfNginx = (peers: Readonly<Record<string, number>>): number =>
  Math.min(asHaproxy(peers), 0.5 * (peers["nginx"] ?? 0));
/** 25,000 requests a second of a core, and not more than nginx takes. */
const request = (peers: Readonly<Record<string, number>>): number => Math.min(40, peers["nginx"] ?? 0);

const cases: readonly Case[] = [
  { name: "16 × 16, 10 ms", agents: 1, shape: sixteen, per: "token", goal: halfOfNginx },
  { name: "256 × 1, 10 ms", agents: 1, shape: single, per: "token", goal: asHaproxy },
  { name: "2 × 128, 10 ms", agents: 1, shape: wide, per: "token", goal: asHaproxy },
  { name: "16 × 16, at once", agents: 1, shape: { ...sixteen, stepMs: 0 }, per: "token", goal: halfOfNginx },
  { name: "256 × 1, at once", agents: 1, shape: { ...single, stepMs: 0 }, per: "token", goal: asHaproxy },
  { name: "2 × 128, at once", agents: 1, shape: { ...wide, stepMs: 0 }, per: "token", goal: asHaproxy },
  { name: "16 × 16, 1 token", agents: 1, shape: { ...sixteen, tokens: 1, stepMs: 0 }, per: "request", goal: request },
  { name: "SSE, 256 × 1, 10 ms", agents: 1, shape: { ...single, protocol: "sse" }, per: "token", goal: asHaproxy },
  {
    name: "2 × 4, 220 KB prompts, 1 token",
    agents: 1,
    shape: { ...stream, connections: 2, streams: 4, tokens: 1, promptBytes: 220_000, stepMs: 0 },
    per: "request",
  },
  { name: "16 × 16, 10 ms", agents: 16, shape: sixteen, per: "token", goal: halfOfNginx },
  { name: "256 × 1, 10 ms", agents: 16, shape: single, per: "token", goal: asHaproxy },
  { name: "16 × 16, 10 ms", agents: 64, shape: sixteen, per: "token", goal: halfOfNginx },
  { name: "256 × 1, 10 ms", agents: 64, shape: single, per: "token", goal: asHaproxy },
  { name: "16 × 16, 1 token", agents: 64, shape: { ...sixteen, tokens: 1, stepMs: 0 }, per: "request", goal: request },
];

function labelOf({ name, agents }: Case): string {
  return `${name}, ${agents} agent${agents === 1 ? "" : "s"}`;
}

/** For connections and caches, before the repeats of a case. */
const firstWork = { warmUpMs: 700, measureMs: 300 } as const;

interface Mode {
  /** For the router's compilers, which take seconds in each new shape to reach what it does for the rest of its life. */
  readonly compileMs: number;
  readonly repeats: number;
  readonly measureMs: number;
  readonly latencyRepeats: number;
  readonly latencyMs: number;
  readonly memoryStreams: number;
  readonly agents: readonly number[];
}

const full: Mode = {
  compileMs: 8_000,
  repeats: 3,
  measureMs: 1_500,
  latencyRepeats: 3,
  latencyMs: 1_500,
  memoryStreams: 10_000,
  agents: [1, 16, 64],
};
const quick: Mode = {
  compileMs: 700,
  repeats: 1,
  measureMs: 500,
  latencyRepeats: 1,
  latencyMs: 1_500,
  memoryStreams: 2_000,
  agents: [1, 64],
};

/** Question: what does a token, and a request, cost in the router, with everything on, beside proxies that only relay? */
export async function runRelayBench(flags: readonly string[]): Promise<void> {
  const { quick: isQuick, only } = benchFlags(flags);
  const mode = isQuick ? quick : full;
  const question =
    "What does relaying cost: the router with everything on, nginx grpc_pass, HAProxy, and no proxy at all?";
  const setup =
    `${machine()}, ${systemToolVersion("nginx")}, ${systemToolVersion("haproxy")}. The proxy has one core, clients and engines ` +
    "the others. Shapes are connections × streams; 64 tokens an answer unless said. The router authenticates, admits, " +
    "routes, counts and writes usage records, and its engines speak link batches; nginx (one worker) and HAProxy (one " +
    "thread, http-reuse always, a server an engine) relay gRPC or HTTP/1.1 to the same engines. Engines tick out of " +
    "phase. CPU from /proc, medians of " +
    `${mode.repeats} interleaved repeats of ${mode.measureMs} ms after a warm-up (for the router, whose code is compiled as ` +
    `it runs, ${mode.compileMs / 1_000} s of each case at 1 ms a step). Every token of every call is checked.`;
  console.log(`${question}\n${setup}`);
  pinThisProcess();
  const backends = await Backends.start(Math.max(...mode.agents), otherCores);
  const load = new BedProcess("load-process.ts", otherCores);
  try {
    const bed = new RelayBed(backends, new Arena(load), mode);
    const rows: Row[] = [];
    for (const agents of mode.agents) {
      const wanted = cases.filter((one) => one.agents === agents && labelOf(one).includes(only));
      if (wanted.length > 0) rows.push(...(await bed.cpu(agents, wanted)));
    }
    if ("latency".includes(only)) rows.push(...(await bed.latency()));
    if ("memory".includes(only)) rows.push(await bed.memory());
    await bed.checkUsage();
    const result = { question, setup, rows };
    if (isQuick || only !== "") show(result);
    else await publish("relay", result);
  } finally {
    await load.stop();
    await backends.stop();
  }
}

class RelayBed {
  readonly #backends: Backends;
  readonly #arena: Arena;
  readonly #mode: Mode;

  constructor(backends: Backends, arena: Arena, mode: Mode) {
    this.#backends = backends;
    this.#arena = arena;
    this.#mode = mode;
  }

  /** CPU a token or request of every case with so many agents. */
  async cpu(agents: number, wanted: readonly Case[]): Promise<Row[]> {
    const { compileMs, repeats, measureMs } = this.#mode;
    const rows: Row[] = [];
    await this.#with(agents, async (contestants) => {
      for (const one of wanted) {
        const { shape, per, goal } = one;
        const beat = (stepMs: number): Promise<void> => this.#backends.configure({ ...idleEngine, stepMs });
        await beat(shape.stepMs);
        // An answer's time, so that as many calls begin and end as in the long run.
        const pace: Pace = { repeats, warmUpMs: shape.stepMs === 0 ? 300 : 700, measureMs };
        for (const contestant of contestants) {
          if (contestant.name === ourName) await this.#arena.compile(contestant, shape, beat, compileMs);
          await this.#arena.run(contestant, shape, firstWork);
        }
        const label = labelOf(one);
        const outcomes = await this.#arena.compare(label, contestants, shape, pace);
        const read = per === "token" ? usPerToken : usPerCall;
        rows.push(rowOf(outcomes, { case: label, metric: "CPU", unit: `µs/${per}`, read, ...(goal && { goal }) }));
      }
    });
    return rows;
  }

  /** What a proxy adds to time to first token and between tokens, when calls come at random. */
  async latency(): Promise<Row[]> {
    const { compileMs, latencyRepeats: repeats, latencyMs: measureMs } = this.#mode;
    const rows: Row[] = [];
    await this.#backends.configure({ ...idleEngine, firstAtOnce: true });
    await this.#with(1, async ([router, ...peers]) => {
      if (router === undefined) return;
      const direct = this.#direct();
      const many: Shape = { ...stream, connections: 16, streams: 64 };
      const beat = (stepMs: number): Promise<void> =>
        this.#backends.configure({ ...idleEngine, stepMs, firstAtOnce: true });
      await this.#arena.compile(router, sixteen, beat, compileMs);
      const { calls, seconds } = await this.#arena.run(router, many, { warmUpMs: 2_000, measureMs: 1_500 });
      console.log(`  closed loop, ${ourName}: ${(calls / seconds).toFixed(0)} calls/s`);
      for (const [words, share] of [["half load", 0.5] as const, ["90 % load", 0.9] as const]) {
        const arrivalsPerS = (calls / seconds) * share;
        const shape: Shape = { ...stream, connections: 16, streams: 1, arrivalsPerS };
        const pace = { repeats, warmUpMs: 700, measureMs };
        const outcomes = await this.#arena.compare(words, [direct, router, ...peers], shape, pace);
        const label = `${words} (${rounded(arrivalsPerS)} calls/s)`;
        rows.push(...latencyRows(label, outcomes, direct.name, share === 0.5));
      }
    });
    return rows;
  }

  /** Resident memory that an open stream takes, in proxies that have just started. */
  async memory(): Promise<Row> {
    const { memoryStreams } = this.#mode;
    const outcomes = new Map<string, Awaited<ReturnType<Arena["run"]>>[]>();
    await this.#backends.configure({ ...idleEngine, stepMs: 1_000 });
    await this.#with(1, async (contestants) => {
      const shape: Shape = { ...stream, connections: 20, streams: memoryStreams / 20, tokens: 5, stepMs: 1_000 };
      for (const contestant of contestants) {
        const few: Shape = { ...shape, streams: 1, tokens: 1 };
        await this.#arena.run(contestant, few, { warmUpMs: 500, measureMs: 500 });
        // Streams open over the first five seconds, and each that ends is followed by another.
        const outcome = await this.#arena.run(contestant, shape, { warmUpMs: 6_000, measureMs: 1_000 });
        outcomes.set(contestant.name, [outcome]);
      }
    });
    return rowOf(outcomes, {
      case: `${memoryStreams} open streams on 20 connections`,
      metric: "resident memory",
      unit: "KB/stream",
      read: ({ residentBytes, residentBefore }) => (residentBytes - residentBefore) / memoryStreams / 1_000,
      goal: () => 25,
    });
  }

  /** @throws Error when a call of ours left no usage record */
  async checkUsage(): Promise<void> {
    const started = this.#arena.started.get(ourName) ?? 0;
    let recorded = 0;
    for (let attempt = 0; attempt < 100 && recorded !== started; attempt++) {
      await sleep(100);
      recorded = await this.#backends.recordedCalls();
    }
    if (recorded !== started) throw new Error(`Usage records came for ${recorded} of ${started} calls.`);
    console.log(`  usage records came for all ${started} calls of the router`);
  }

  #direct(): Contestant {
    const { grpc = 0, openAi = 0 } = this.#backends.ports[0] ?? {};
    return { name: "direct", grpcPort: grpc, openAiPort: openAi, key: "none", pid: 0, stop: () => Promise.resolve() };
  }

  async #with(agents: number, use: (contestants: readonly Contestant[]) => Promise<void>): Promise<void> {
    const ports = this.#backends.ports.slice(0, agents);
    const contestants: Contestant[] = [];
    try {
      contestants.push(await startRouter(this.#backends, agents));
      contestants.push(await startHaproxy(ports), await startNginx(ports));
      await use(contestants);
    } finally {
      for (const contestant of contestants) await contestant.stop();
    }
  }
}

/** Each repeat is compared with the direct one of the same repeat. */
function latencyRows(label: string, outcomes: Outcomes, direct: string, held: boolean): Row[] {
  const base = outcomes.get(direct) ?? [];
  const proxies = new Map([...outcomes].filter(([name]) => name !== direct));
  const row = (metric: string, of: "ttftMs" | "gapMs", share: keyof Percentiles, goal: number | undefined): Row =>
    rowOf(proxies, {
      case: label,
      metric: `added ${metric} ${share}`,
      unit: "ms",
      read: (outcome, repeat) => outcome[of][share] - (base[repeat]?.[of][share] ?? Number.NaN),
      goal: () => goal,
    });
  return [
    row("time to first token", "ttftMs", "p50", held ? 0.3 : undefined),
    row("time to first token", "ttftMs", "p99", held ? 1.5 : undefined),
    row("inter-token latency", "gapMs", "p50", undefined),
    row("inter-token latency", "gapMs", "p99", undefined),
  ];
}

import { Arena, type Outcomes, type Pace, type Shape, rowOf, usPerCall, usPerToken } from "./bed/arena.ts";
import { Backends } from "./bed/backends.ts";
import { otherCores, pinThisProcess } from "./bed/cores.ts";
import { type EngineSettings, idleEngine } from "./bed/engine.ts";
import type { Outcome } from "./bed/job.ts";
import { BedProcess } from "./bed/parent.ts";
import type { Contestant } from "./contestants/contestant.ts";
import { startHaproxy } from "./contestants/haproxy.ts";
import { startLitellm } from "./contestants/litellm.ts";
import { startNginx } from "./contestants/nginx.ts";
import { startPortkey } from "./contestants/portkey.ts";
import { startRouter } from "./contestants/router.ts";
import { startSmg } from "./contestants/smg.ts";
import { benchFlags } from "./flags.ts";
import { type Row, machine, median, ourName, publish, rounded, show } from "./report.ts";
import { peerVersion, systemToolVersion } from "./tools.ts";

interface Case {
  readonly name: string;
  readonly shape: Shape;
  readonly per: "token" | "request";
  readonly goal?: (peers: Readonly<Record<string, number>>) => number;
}

const engines = 4;
const base = { promptBytes: 100, streams: 1 } as const;
/** They spend milliseconds where others spend microseconds: as many streams would take minutes. */
const slow = new Set(["LiteLLM", "Portkey"]);
const slowConnections = 16;
/** On Node, which compiles code as it runs. */
const compiles = new Set([ourName, "Portkey"]);
const halfOfSmg = (peers: Readonly<Record<string, number>>): number => 0.5 * (peers["SMG"] ?? 0);

const cases: readonly Case[] = [
  {
    name: "short requests, 64 connections",
    shape: { ...base, protocol: "chat", connections: 64, tokens: 4, stepMs: 0 },
    per: "request",
    goal: (peers) => Math.min(halfOfSmg(peers), (peers["LiteLLM"] ?? 0) / 100),
  },
  {
    name: "256 streams, 64 tokens at 10 ms",
    shape: { ...base, protocol: "sse", connections: 256, tokens: 64, stepMs: 10 },
    per: "token",
    goal: halfOfSmg,
  },
  {
    name: "220 KB prompts, 8 connections, 1 token",
    shape: { ...base, protocol: "chat", connections: 8, tokens: 1, promptBytes: 220_000, stepMs: 0 },
    per: "request",
  },
];

const traceName = `shared-prefix trace, ${engines} engines`;
/** A prompt of the trace grows from 6 to 11 KB, 12 to 22 ms of evaluation; all prompts together outgrow one engine's cache. */
const traceEngine: EngineSettings = { stepMs: 5, firstAtOnce: true, prefillBytesPerS: 500_000, cacheBlocks: 600 };
const traceShape = { groups: 24, systemBytes: 5_000, turns: 6, questionBytes: 1_000 } as const;

/** Of one run. */
const traceCalls = 600;
/** Per cent of the blocks that hit when all engines share one cache that loses nothing, in this trace of so many calls. */
const bestHits = 85;

const compileMs = 8_000;

/** Question: what does an OpenAI call cost in our router beside the gateways that people use, and do they find the cache? */
export async function runGatewaysBench(flags: readonly string[]): Promise<void> {
  const { quick, only } = benchFlags(flags);
  const question = "What does an OpenAI call cost in each gateway, and which finds the engine that knows the prompt?";
  const versions = [
    `SMG ${peerVersion("smg")} (cache_aware, API key, engines as vLLM)`,
    `LiteLLM ${peerVersion("litellm")} (master key, no database)`,
    `Portkey ${peerVersion("portkey")}`,
    systemToolVersion("nginx"),
    systemToolVersion("haproxy"),
  ].join(", ");
  const repeats = quick ? 1 : 3;
  const setup =
    `${machine()}; ${versions}. The gateway's process tree has one core, clients and ${engines} engines the others; HTTP/1.1 with ` +
    "connections kept open. Ours has everything on and speaks link batches to the engines, the others chat completions; " +
    "nginx and HAProxy only relay; Portkey cannot stream here. CPU from /proc, medians of " +
    `${repeats} interleaved repeats after a warm-up (for ours and Portkey, whose code is compiled as it ` +
    `runs, ${compileMs / 1_000} s of each case at 1 ms a step). ${[...slow].join(" and ")} get ${slowConnections} streams instead of 256. The trace: ` +
    `${traceShape.groups} system prompts, ${traceCalls} calls in conversations of ${traceShape.turns} turns, 32 at once; at best ${bestHits} % of the blocks hit. Every answer is checked.`;
  console.log(`${question}\n${setup}`);
  pinThisProcess();
  const backends = await Backends.start(engines, otherCores);
  const load = new BedProcess("load-process.ts", otherCores);
  const contestants: Contestant[] = [];
  try {
    contestants.push(await startRouter(backends, engines), await startSmg(backends.ports));
    contestants.push(await startHaproxy(backends.ports), await startNginx(backends.ports));
    contestants.push(await startPortkey(backends.ports), await startLitellm(backends.ports));
    const arena = new Arena(load);
    const pace: Pace = { repeats, warmUpMs: 700, measureMs: quick ? 500 : 1_500 };
    const rows: Row[] = [];
    for (const one of cases.filter(({ name }) => name.includes(only))) {
      rows.push(await cpuRow(one, arena, backends, contestants, pace));
    }
    if (traceName.includes(only)) rows.push(...(await traceRows(arena, backends, contestants, repeats)));
    const result = { question, setup, rows };
    if (quick || only !== "") show(result);
    else await publish("gateways", result);
  } finally {
    for (const contestant of contestants) await contestant.stop();
    await load.stop();
    await backends.stop();
  }
}

async function cpuRow(
  { name, shape, per, goal }: Case,
  arena: Arena,
  backends: Backends,
  contestants: readonly Contestant[],
  pace: Pace,
): Promise<Row> {
  const beat = (stepMs: number): Promise<void> => backends.configure({ ...idleEngine, stepMs });
  await beat(shape.stepMs);
  const shapeOf = (contestant: Contestant): Shape =>
    slow.has(contestant.name) ? { ...shape, connections: Math.min(shape.connections, slowConnections) } : shape;
  const able = contestants.filter(({ streams = true }) => streams || shape.protocol === "chat");
  for (const one of able) {
    if (pace.repeats > 1 && compiles.has(one.name)) await arena.compile(one, shapeOf(one), beat, compileMs);
    await arena.run(one, shapeOf(one), { warmUpMs: 300, measureMs: 300 });
  }
  const outcomes = await arena.compare(name, able, shapeOf, pace);
  const read = per === "token" ? usPerToken : usPerCall;
  return rowOf(outcomes, { case: name, metric: "CPU", unit: `µs/${per}`, read, ...(goal && { goal }) });
}

/** Conversations over four engines, each with a cache that does not hold them all. */
async function traceRows(
  arena: Arena,
  backends: Backends,
  contestants: readonly Contestant[],
  repeats: number,
): Promise<Row[]> {
  const outcomes = new Map<string, Outcome[]>();
  const hits = new Map<string, number[]>();
  for (let repeat = 0; repeat < repeats; repeat++) {
    for (const contestant of contestants.filter(({ streams = true }) => streams)) {
      const { name } = contestant;
      // Caches begin empty, with texts that no gateway has seen.
      await backends.configure(traceEngine);
      const trace = { ...traceShape, run: `Run ${repeat} of ${name}`, seed: repeat + 1 };
      const paced = { stepMs: traceEngine.stepMs, connections: 32, tokens: 16, calls: traceCalls };
      const shape: Shape = { ...base, ...paced, protocol: "sse", trace };
      const outcome = await arena.run(contestant, shape, { warmUpMs: 0, measureMs: 0 });
      const { hitBlocks, blocks } = await backends.stats();
      outcomes.set(name, [...(outcomes.get(name) ?? []), outcome]);
      hits.set(name, [...(hits.get(name) ?? []), (hitBlocks / blocks) * 100]);
      const ttft = `TTFT p50 ${outcome.ttftMs.p50.toFixed(1)} ms`;
      console.log(`  shared-prefix trace, ${name}: ${((hitBlocks / blocks) * 100).toFixed(1)} % of blocks, ${ttft}`);
    }
  }
  return [hitRow(traceName, hits), latencyRow(traceName, outcomes, "p50"), latencyRow(traceName, outcomes, "p99")];
}

function hitRow(label: string, hits: ReadonlyMap<string, readonly number[]>): Row {
  const values = Object.fromEntries([...hits].map(([name, all]) => [name, rounded(median(all))]));
  const { [ourName]: ours = Number.NaN, ...peers } = values;
  const spread = Object.fromEntries(
    [...hits].map(([name, all]) => [name, [rounded(Math.min(...all)), rounded(Math.max(...all))] as const]),
  );
  const goal = rounded(0.95 * bestHits);
  return { case: label, metric: "prefix hits", unit: "% of blocks", ours, peers, goal, met: ours >= goal, spread };
}

function latencyRow(label: string, outcomes: Outcomes, share: "p50" | "p99"): Row {
  const metric = `time to first token ${share}`;
  return rowOf(outcomes, { case: label, metric, unit: "ms", read: ({ ttftMs }) => ttftMs[share] });
}

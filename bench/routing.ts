import { seededRandom } from "#kernel/random.ts";
import { type Row, machine, percentile, publish, rounded } from "./report.ts";
import { type Contestant, type MeshResult, SimMesh } from "./routing-mesh.ts";
import { nodeModel } from "./routing-node.ts";
import { measurePicks } from "./routing-pick.ts";
import { createTrace } from "./routing-trace.ts";

const seed = 42;
/** A first token after this comes too late to count as good. */
const goodMs = 500;
const ours: Contestant = "predicted-ttft";

interface Case {
  readonly nodes: number;
  readonly calls: number;
  readonly callsPerNodeAndSecond: number;
  readonly peers: readonly Contestant[];
}

/** The peer that a goal is held against comes first. */
const allPeers: readonly Contestant[] = [
  "oracle",
  "most cached",
  "round-robin",
  "prefix-affinity",
  "consistent-hash",
  "least-loaded",
  "power-of-two",
  "random",
];
const fewPeers: readonly Contestant[] = ["oracle", "most cached", "round-robin"];

const cases: readonly Case[] = [
  { nodes: 8, calls: 5_000, callsPerNodeAndSecond: 4.5, peers: allPeers },
  { nodes: 8, calls: 5_000, callsPerNodeAndSecond: 6, peers: allPeers },
  { nodes: 64, calls: 8_000, callsPerNodeAndSecond: 6, peers: allPeers },
  { nodes: 512, calls: 16_000, callsPerNodeAndSecond: 6, peers: fewPeers },
  { nodes: 4_000, calls: 32_000, callsPerNodeAndSecond: 2, peers: fewPeers },
];

/** Forty blocks each. */
const cachedConversations = 8_000;
const pickSizes = [10, 100, 1_000, 4_000] as const;

/** Which policy finds the caches, and what that is worth; and what a pick costs. */
export async function runRoutingBench(): Promise<void> {
  const rows = [...cases.flatMap((one) => simulate(one)), ...pickRows()];
  const { prefillTokensPerS, stepBaseMs, stepPerSequenceMs, parallelSequences, kvBlocks, queueLimit } = nodeModel;
  await publish("routing", {
    question:
      "How near to an oracle does each policy route a multi-turn trace with shared prefixes, and does a pick cost more with more nodes?",
    setup:
      `${machine()}. Seeded simulation (seed ${seed}) of engines and clients around the router's own code (Routes, policies, ` +
      `prefix index), two routers that know of each other only what agents report, 20 ms late. Engines: prefill ` +
      `${prefillTokensPerS} tokens/s, step ${stepBaseMs} ms + ${stepPerSequenceMs} ms a sequence, ${parallelSequences} ` +
      `sequences, ${kvBlocks * 64} tokens of KV with an LRU prefix cache, ${queueLimit} calls may wait. Conversations of six turns on average ` +
      `in 60 applications with 400 to 2,800 tokens of instructions each, Zipf; the first quarter of the calls warms up. ` +
      `Oracle: greedy with the exact state of the nodes and the exact rest of every answer, blind to calls to come, so no upper bound; most cached: the truly longest prefix, ` +
      `whatever the load; both look at 64 nodes and those that served the conversation. Goodput: calls with a first token within ${goodMs} ms, ` +
      `refused ones counted. Goal on the hit rate: 0.95 of the better of the two.`,
    rows,
  });
}

function simulate({ nodes, calls, callsPerNodeAndSecond, peers }: Case): Row[] {
  const trace = createTrace({ random: seededRandom(seed), calls, callsPerSecond: nodes * callsPerNodeAndSecond });
  const run = (contestant: Contestant): MeshResult => {
    const result = new SimMesh({ nodes, trace, contestant, warmup: calls / 4, seed }).run();
    check(result, calls / 4, contestant);
    return result;
  };
  const mine = run(ours);
  const others = new Map(peers.map((peer) => [peer, run(peer)]));
  const name = `${nodes} nodes, ${callsPerNodeAndSecond} calls/s each`;
  const row = (metric: string, unit: string, value: (result: MeshResult) => number): Row => ({
    case: name,
    metric,
    unit,
    ours: rounded(value(mine)),
    peers: Object.fromEntries([...others].map(([peer, result]) => [peer, rounded(value(result))])),
    goal: null,
    met: null,
  });
  const best = Math.max(others.get("oracle")?.hitRate ?? 0, others.get("most cached")?.hitRate ?? 0);
  return [
    {
      ...row("prefix hit rate", "share of prompt tokens", ({ hitRate }) => hitRate),
      goal: rounded(0.95 * best),
      met: mine.hitRate >= 0.95 * best,
    },
    row("TTFT p50", "ms", ({ ttfts }) => percentile(ttfts, 0.5)),
    row("TTFT p99", "ms", ({ ttfts }) => percentile(ttfts, 0.99)),
    row("goodput", "share of calls", (result) => goodput(result)),
    row("refused", "calls", ({ refused }) => refused),
  ];
}

function goodput({ ttfts, refused }: MeshResult): number {
  return ttfts.filter((ms) => ms <= goodMs).length / (ttfts.length + refused);
}

function check(
  { calls, refused, ttfts, hitRate, idealHitRate }: MeshResult,
  warmup: number,
  contestant: Contestant,
): void {
  const counted = calls - warmup;
  if (ttfts.length + refused !== counted) {
    throw new Error(`${contestant}: ${counted} calls, but ${ttfts.length} first tokens and ${refused} refusals.`);
  }
  if (hitRate < 0 || hitRate > idealHitRate + 1e-9) {
    throw new Error(
      `${contestant}: hits ${hitRate} of the prompt tokens, where a cache without bounds hits ${idealHitRate}.`,
    );
  }
  if ((ttfts[0] ?? 0) < nodeModel.stepBaseMs)
    throw new Error(`${contestant}: a first token came after ${ttfts[0]} ms.`);
}

function pickRows(): Row[] {
  const measured = measurePicks(pickSizes, cachedConversations);
  const [fewest, , , most] = pickSizes;
  const atFewest = measured.get(fewest)?.pickUs ?? Number.NaN;
  const rows: Row[] = pickSizes.map((nodes) => {
    const { pickUs, scanUs } = measured.get(nodes) ?? { pickUs: Number.NaN, scanUs: Number.NaN };
    const compared = nodes > fewest;
    return {
      case: `${nodes} nodes, ${cachedConversations} cached conversations`,
      metric: "pick (predicted-ttft)",
      unit: "µs CPU",
      ours: rounded(pickUs),
      peers: { "at 10 nodes": rounded(atFewest), "scan of all": rounded(scanUs) },
      goal: compared ? rounded(2 * atFewest) : null,
      met: compared ? pickUs <= 2 * atFewest : null,
    };
  });
  // Ten times the entries miss the processor's caches more often, whatever the number of nodes.
  const large = measurePicks([most], 10 * cachedConversations).get(most);
  rows.push({
    case: `${most} nodes, ${10 * cachedConversations} cached conversations`,
    metric: "pick (predicted-ttft)",
    unit: "µs CPU",
    ours: rounded(large?.pickUs ?? Number.NaN),
    peers: { "at 10 nodes": rounded(atFewest), "scan of all": rounded(large?.scanUs ?? Number.NaN) },
    goal: null,
    met: null,
  });
  return rows;
}

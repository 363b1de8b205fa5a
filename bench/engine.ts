import { type ChildProcess, spawn } from "node:child_process";
import { join } from "node:path";
import { freePort } from "./contestants/contestant.ts";
import { cpuSecondsOfTree } from "./process-cpu.ts";
import { ended, type Mesh, startMesh } from "./mesh.ts";
import { machine, median, percentile, publish, type Row, rounded } from "./report.ts";
import { type Stream, streamStory } from "./story-client.ts";
import { llamaServerPath } from "./tools.ts";

const animals = "fox bear owl rabbit wolf cat dog mouse horse otter crow turtle".split(" ");
const maxTokens = 200;
const repeats = 5;
const warmUpStreams = 160;

interface Contestant {
  readonly name: string;
  readonly url: string;
  readonly key: string;
  readonly pid: number;
}

interface Measured {
  readonly tokensPerSecond: number;
  readonly cpuUsPerToken: number;
  readonly streams: readonly Stream[];
}

/** Question: what does the mesh cost in speed, with everything on, beside the engine's own server? */
export async function runEngineBench(): Promise<void> {
  const question = "Streaming stories from Pocket: does the mesh deliver what upstream llama-server gives directly?";
  console.log(question);
  const peerPath = llamaServerPath();
  const peer = await startLlamaServer(peerPath);
  let mesh: Mesh | undefined;
  try {
    mesh = await startMesh();
    const ours: Contestant = { name: "Helixmesh", url: mesh.run.router.url, key: mesh.key, pid: mesh.pid };
    const theirs: Contestant = { name: "llama-server", url: peer.url, key: "", pid: peer.child.pid ?? 0 };
    const setup =
      `${machine()}. Client, router, agent, engine, control plane and PostgreSQL share the machine; llama-server ` +
      `(-t 1 -np 16) gets the same client over the same HTTP/1.1. Greedy, ${maxTokens} tokens at most, ${repeats} ` +
      `interleaved repeats after a warm-up of ${warmUpStreams} streams each; medians, with the spread of tokens/s in ` +
      "parentheses in the log. Every text must equal the other contestant's.";
    console.log(setup);
    const rows: Row[] = [];
    for (const clients of [1, 16]) rows.push(...(await compare(clients, ours, theirs)));
    await publish("engine", { question, setup, rows });
  } finally {
    await ended(peer.child);
    await mesh?.stop();
  }
}

async function compare(clients: number, ours: Contestant, theirs: Contestant): Promise<Row[]> {
  // Compilers of hot code need thousands of tokens; without them the first repeats would measure their work.
  for (const contestant of [ours, theirs]) await load(contestant, clients, warmUpStreams / clients);
  const measured: Record<string, Measured[]> = { [ours.name]: [], [theirs.name]: [] };
  const streamsEach = clients === 1 ? 12 : 6;
  for (let repeat = 0; repeat < repeats; repeat++) {
    const texts: string[][] = [];
    for (const contestant of repeat % 2 === 0 ? [ours, theirs] : [theirs, ours]) {
      const one = await load(contestant, clients, streamsEach);
      measured[contestant.name]?.push(one);
      texts.push(one.streams.map((stream) => stream.text));
      console.log(`  ${clients} clients, ${contestant.name}: ${one.tokensPerSecond.toFixed(0)} tokens/s`);
    }
    const differing = texts[0]?.filter((text, index) => text !== texts[1]?.[index]).length ?? 0;
    if (differing > 0) throw new Error(`${differing} of ${texts[0]?.length} texts differ between the contestants.`);
  }
  const value = (who: Contestant, read: (one: Measured) => number): number =>
    rounded(median((measured[who.name] ?? []).map(read)));
  const ttft = (share: number) => (one: Measured) =>
    percentile(
      one.streams.map((stream) => stream.ttftMs).toSorted((a, b) => a - b),
      share,
    );
  const row = (metric: string, unit: string, read: (one: Measured) => number, asTheirs: boolean): Row => {
    const our = value(ours, read);
    const their = value(theirs, read);
    const goal = asTheirs ? their : null;
    const met = asTheirs ? our >= their : null;
    return {
      case: `${clients} client${clients === 1 ? "" : "s"}`,
      metric,
      unit,
      ours: our,
      peers: { [theirs.name]: their },
      goal,
      met,
    };
  };
  return [
    row("throughput", "tokens/s", (one) => one.tokensPerSecond, true),
    row("TTFT p50", "ms", ttft(0.5), false),
    row("TTFT p99", "ms", ttft(0.99), false),
    row("CPU of all its processes", "µs/token", (one) => one.cpuUsPerToken, false),
  ];
}

/** `clients` at once, each streaming `streamsEach` stories one after another. Streams come back in a fixed order. */
async function load(contestant: Contestant, clients: number, streamsEach: number): Promise<Measured> {
  const startedMs = performance.now();
  const cpuBefore = cpuSecondsOfTree(contestant.pid);
  const perClient = await Promise.all(
    Array.from({ length: clients }, async (_, client) => {
      const streams: Stream[] = [];
      for (let index = 0; index < streamsEach; index++) {
        const animal = animals[(client * 5 + index) % animals.length];
        const story = `Tell me a story about a ${animal}.`;
        const stream = await streamStory(contestant.url, contestant.key, story, maxTokens);
        if (!stream.text.startsWith("Once upon a time")) throw new Error(`No story: ${stream.text.slice(0, 80)}`);
        streams.push(stream);
      }
      return streams;
    }),
  );
  const seconds = (performance.now() - startedMs) / 1000;
  const streams = perClient.flat();
  const tokens = streams.reduce((sum, stream) => sum + stream.completionTokens, 0);
  const cpuSeconds = cpuSecondsOfTree(contestant.pid) - cpuBefore;
  return { tokensPerSecond: tokens / seconds, cpuUsPerToken: (cpuSeconds * 1e6) / tokens, streams };
}

async function startLlamaServer(path: string): Promise<{ readonly url: string; readonly child: ChildProcess }> {
  const port = await freePort();
  const model = join(import.meta.dirname, "../models/pocket/pocket-1.8m-f16.gguf");
  const flags = ["-m", model, "-t", "1", "-np", "16", "-c", String(16 * 2048), "--jinja", "--metrics"];
  const child = spawn(path, [...flags, "--host", "127.0.0.1", "--port", String(port)], { stdio: "ignore" });
  const url = `http://127.0.0.1:${port}`;
  for (let attempt = 0; attempt < 150; attempt++) {
    const answer = await fetch(`${url}/health`).catch(() => undefined);
    if (answer?.ok) return { url, child };
    if (child.exitCode !== null) break;
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  child.kill("SIGKILL");
  throw new Error(`${path} did not come up.`);
}

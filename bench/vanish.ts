import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Role } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { EngineKind } from "#gen/helixmesh/type/v1/type_pb.ts";
import { type TestMesh, startTestMesh } from "../router/test-router.ts";
import { AgentProcess } from "./agent-process.ts";
import { type Asking, type Request, askGrpc, resumeHeaders } from "./broken-streams.ts";
import { Hosts } from "./hosts.ts";
import { readAnswer } from "./read-answer.ts";
import { type Row, machine, percentile, publish, rounded } from "./report.ts";
import { RouterProcess } from "./router-process.ts";

const streamCount = 16;
const callsPerSecond = 50;
/** A first token after this comes late: undisturbed ones take some 30 ms. */
const lateMs = 300;
const asksOff = "without asking nodes";

const story = (maxOutputTokens: number): Request => ({
  model: "pocket",
  input: { case: "chat", value: { messages: [{ role: Role.USER, content: "Tell me a story about a fox." }] } },
  sampling: { temperature: 0 },
  maxOutputTokens,
});

/** What clients see when the host of a node or of a router vanishes without closing its connections. */
export async function runVanishBench(): Promise<void> {
  const question = "How long do clients see nothing when a host vanishes without closing its connections?";
  const setup =
    `${machine()}. Two agents (sim engine, steps of 10 ms) and a router, each in a network namespace whose packets are ` +
    `dropped, and the router that clients ask or come back to; default settings, round-robin. ${streamCount} streams of 600 tokens ` +
    `when a node vanishes under them, and ${callsPerSecond} calls of 5 tokens a second from then on; the same from 0.1 s after an ` +
    `idle node vanished. A router vanishes 1.5 s into a stream of 900 tokens; its client resumes at the other, and without ` +
    `--resume-asks has to wait until the node misses the first. Every text is compared with an undisturbed one.`;
  console.log(`${question}\n${setup}`);
  const hosts = new Hosts(["node-1", "node-2", "router"]);
  const closers: (() => unknown)[] = [() => hosts.close()];
  try {
    const agents: AgentProcess[] = [];
    for (const n of [1, 2]) {
      const replica = { engine: EngineKind.SIM, engineOptions: { time_scale: "1" }, parallelSequences: 256 };
      const names = { replicaId: `replica-${n}`, model: "pocket", deployment: "pocket-deployment" };
      const place = hosts.at(`node-${n}`);
      const agent = await AgentProcess.start({ nodeId: `node-${n}`, replica: { ...replica, ...names }, place });
      closers.unshift(() => agent.close());
      agents.push(agent);
    }
    const rows = [...(await measureNodes(hosts, agents)), ...(await measureRouters(hosts, agents))];
    await publish("vanish", { question, setup, rows });
  } finally {
    for (const close of closers) await close();
  }
}

async function openMesh(agents: AgentProcess[], flags: readonly string[] = []): Promise<TestMesh> {
  const mesh = await startTestMesh({ agents: [], outside: agents, flags: ["--policy=round-robin", ...flags] });
  while (!(await fetch(`${mesh.adminUrl}/readyz`)).ok) await sleep(20);
  // Each node's pace is measured.
  await Promise.all(Array.from({ length: 4 }, () => ask(mesh, 20)));
  return mesh;
}

interface Heard {
  readonly text: string;
  readonly nodeId: string;
  readonly firstMs: number;
  /** Longest time between two pieces of text. */
  readonly silenceMs: number;
  readonly error: string | undefined;
}

/** Streams a story; `onText` hears how many pieces there are. */
async function ask(from: Asking, tokens: number): Promise<Heard> {
  const beganMs = performance.now();
  const times: number[] = [];
  let nodeId = "";
  const { events, error } = await askGrpc({ url: from.url, key: from.key }, story(tokens), (_count, event) => {
    if (event.case === "started") ({ nodeId } = event.value);
    if (event.case === "delta") times.push(performance.now());
  });
  const silences = times.slice(1).map((time, index) => time - (times[index] ?? time));
  const firstMs = (times[0] ?? Number.NaN) - beganMs;
  return { text: textOf(events), nodeId, firstMs, silenceMs: Math.max(...silences), error: error?.message };
}

function textOf(events: Parameters<typeof readAnswer>[0]): string {
  return readAnswer(events).choices[0]?.text ?? "";
}

function sorted(values: readonly number[]): number[] {
  return values.toSorted((a, b) => a - b);
}

function row(name: string, metric: string, unit: string, value: number, goal: number | null = null): Row {
  const ours = rounded(value);
  return { case: name, metric, unit, ours, peers: {}, goal, met: goal === null ? null : ours <= goal };
}

async function measureNodes(hosts: Hosts, agents: AgentProcess[]): Promise<Row[]> {
  const mesh = await openMesh(agents);
  try {
    const whole = await ask(mesh, 600);
    const streams = Array.from({ length: streamCount }, () => ask(mesh, 600));
    await sleep(1_500);
    hosts.vanish("node-1");
    const calls = await callsFor(mesh, 3_000);
    const heard = await Promise.all(streams);
    const backMs = await comeBack(hosts, mesh);
    for (const { text, error } of heard) if (text !== whole.text) throw new Error(`A stream was not moved: ${error}`);
    const silences = sorted(heard.filter(({ nodeId }) => nodeId === "node-1").map(({ silenceMs }) => silenceMs));
    await sleep(2_000);
    hosts.vanish("node-1");
    await sleep(100);
    const idle = await callsFor(mesh, 4_000);
    await comeBack(hosts, mesh);
    const busyCase = `node vanishes under ${silences.length} streams`;
    return [
      row(busyCase, "longest silence of a stream p50", "ms", percentile(silences, 0.5)),
      row(busyCase, "longest silence of a stream, longest", "ms", silences.at(-1) ?? Number.NaN),
      ...callRows(busyCase, calls),
      row(busyCase, "back until it has calls again", "ms", backMs),
      ...callRows("idle node vanishes", idle),
    ];
  } finally {
    await mesh.close();
  }
}

/** Calls in an open loop. */
async function callsFor(mesh: TestMesh, ms: number): Promise<Heard[]> {
  const calls: Promise<Heard>[] = [];
  const untilMs = performance.now() + ms;
  while (performance.now() < untilMs) {
    calls.push(ask(mesh, 5));
    await sleep(1_000 / callsPerSecond);
  }
  return Promise.all(calls);
}

function callRows(name: string, calls: readonly Heard[]): Row[] {
  const firsts = sorted(calls.map(({ firstMs }) => firstMs));
  return [
    row(
      name,
      `new calls with a first token after ${lateMs} ms`,
      "calls",
      firsts.filter((ms) => !(ms <= lateMs)).length,
    ),
    row(name, "time to first token of new calls, longest", "ms", firsts.at(-1) ?? Number.NaN),
    row(name, "new calls that failed", "calls", calls.filter(({ error }) => error !== undefined).length, 0),
  ];
}

/** How long it takes until the node has a call again. */
async function comeBack(hosts: Hosts, mesh: TestMesh): Promise<number> {
  hosts.comeBack("node-1");
  const beganMs = performance.now();
  while ((await ask(mesh, 2)).nodeId !== "node-1") await sleep(5);
  return performance.now() - beganMs;
}

async function measureRouters(hosts: Hosts, agents: AgentProcess[]): Promise<Row[]> {
  const withAsks = await resumptions(hosts, agents, [0, 5_000]);
  const without = await resumptions(hosts, agents, [0], ["--resume-asks=0"]);
  return withAsks.map(({ name, ms }, index) => {
    const peer = without[index]?.ms;
    const ours = row(name, "from coming back to new text", "ms", ms);
    return { ...ours, peers: peer === undefined ? {} : { [asksOff]: rounded(peer) } };
  });
}

/** `waits`: how long the client stays away, milliseconds. */
async function resumptions(
  hosts: Hosts,
  agents: AgentProcess[],
  waits: readonly number[],
  flags: readonly string[] = [],
): Promise<{ readonly name: string; readonly ms: number }[]> {
  const mesh = await openMesh(agents, flags);
  const stateDir = await mkdtemp(join(tmpdir(), "helixmesh-vanish-"));
  const controlUrl = `http://${await hosts.expose(mesh.control.port)}`;
  const keyFile = join(mesh.stateDir, "router-key");
  const router = await RouterProcess.start({ routerId: "vanishing", controlUrl, keyFile, place: hosts.at("router") });
  try {
    const whole = (await ask(mesh, 900)).text;
    const results: { name: string; ms: number }[] = [];
    for (const waitMs of waits) {
      const callId = `call-${waitMs}`;
      const gone = new AbortController();
      const from = { url: router.url, key: mesh.key, headers: { "x-request-id": callId }, signal: gone.signal };
      const first = askGrpc(from, story(900));
      await sleep(1_500);
      hosts.vanish("router");
      await sleep(waitMs);
      gone.abort();
      const { events } = await first;
      const beganMs = performance.now();
      let newMs = Number.NaN;
      const headers = resumeHeaders(callId, events);
      const rest = await askGrpc({ url: mesh.url, key: mesh.key, headers }, story(900), (count) => {
        if (count === 1) newMs = performance.now() - beganMs;
      });
      hosts.comeBack("router");
      if (textOf([...events, ...rest.events]) !== whole) throw new Error(`${callId} was not resumed: ${rest.error}`);
      await checkUsage(mesh, callId);
      results.push({ name: `router vanishes, its client is back ${waitMs / 1_000} s later`, ms: newMs });
    }
    return results;
  } finally {
    await router.close();
    await mesh.close();
    await rm(stateDir, { recursive: true });
  }
}

/** Also after the router that is back has said what it knows. */
async function checkUsage({ control }: TestMesh, callId: string): Promise<void> {
  await sleep(3_000);
  const counts = control.usage.filter((one) => one.callId === callId).map(({ usage }) => usage?.completionTokens);
  if (counts.join() !== "900") throw new Error(`${callId} was billed ${counts.join(" and ")} tokens, not 900`);
}

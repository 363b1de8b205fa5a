import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { type Mesh, startMesh } from "./mesh.ts";
import { machine, publish, type Row, rounded } from "./report.ts";
import { toolPath } from "./tools.ts";

const execute = promisify(execFile);
const callsEach = 500;

interface Counted {
  readonly tool: string;
  readonly callsPerSecond: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
}

/** Question: what do the load tools of our users see when they stream through each door? */
export async function runLoadBench(): Promise<void> {
  const question = "What do ghz and k6 see when they stream 64 tokens a call through each door?";
  console.log(question);
  const setup =
    `${machine()}. The mesh with the sim engine (its step time is part of every call), load tool and mesh on one machine; ` +
    `${callsEach} calls a tool after a warm-up of 50, 32 at once. Every call's stream is checked for its end.`;
  console.log(setup);
  const mesh = await startMesh(["--engine", "sim"]);
  try {
    const rows: Row[] = [];
    for (const measure of [ghz, k6("grpc-stream"), k6("connect"), k6("openai-sse")]) {
      await measure(mesh, 50);
      const seen = await measure(mesh, callsEach);
      console.log(`  ${seen.tool}: ${seen.callsPerSecond.toFixed(0)} calls/s`);
      const row = (metric: string, unit: string, ours: number): Row => ({
        case: seen.tool,
        metric,
        unit,
        ours: rounded(ours),
        peers: {},
        goal: null,
        met: null,
      });
      rows.push(row("throughput", "calls/s", seen.callsPerSecond));
      rows.push(row("whole stream p50", "ms", seen.p50Ms), row("whole stream p99", "ms", seen.p99Ms));
    }
    await publish("load", { question, setup, rows });
  } finally {
    await mesh.stop();
  }
}

async function ghz(mesh: Mesh, calls: number): Promise<Counted> {
  const config = join(import.meta.dirname, "ghz/generate.json");
  const metadata = JSON.stringify({ authorization: `Bearer ${mesh.key}` });
  const host = new URL(mesh.run.router.url).host;
  const flags = [
    "--config",
    config,
    "-n",
    String(calls),
    "-c",
    "32",
    "--connections",
    "8",
    "-m",
    metadata,
    "-O",
    "json",
  ];
  const { stdout } = await execute(toolPath("ghz"), [...flags, host], { maxBuffer: 64 << 20, timeout: 120_000 });
  const report = JSON.parse(stdout) as {
    readonly rps: number;
    readonly statusCodeDistribution: Readonly<Record<string, number>>;
    readonly latencyDistribution: readonly { readonly percentage: number; readonly latency: number }[];
  };
  const ok = report.statusCodeDistribution["OK"] ?? 0;
  if (ok !== calls)
    throw new Error(`ghz: ${ok} of ${calls} calls were OK: ${JSON.stringify(report.statusCodeDistribution)}`);
  const atMs = (share: number): number =>
    (report.latencyDistribution.find((entry) => entry.percentage === share)?.latency ?? Number.NaN) / 1e6;
  return { tool: "ghz, gRPC", callsPerSecond: report.rps, p50Ms: atMs(50), p99Ms: atMs(99) };
}

function k6(script: string): (mesh: Mesh, calls: number) => Promise<Counted> {
  return async (mesh, calls) => {
    const folder = await mkdtemp(join(tmpdir(), "helixmesh-k6-"));
    try {
      const summaryPath = join(folder, "summary.json");
      const settings = { ROUTER_URL: mesh.run.router.url, KEY: mesh.key, VUS: "32", CALLS: String(calls) };
      const env = { ...process.env, ...settings, K6_NO_USAGE_REPORT: "true" };
      const path = join(import.meta.dirname, `k6/${script}.js`);
      const flags = ["run", "--quiet", "--no-color", "--address", "127.0.0.1:0", "--summary-export", summaryPath, path];
      await execute(toolPath("k6"), flags, { env, maxBuffer: 64 << 20, timeout: 180_000 });
      const { metrics } = JSON.parse(await readFile(summaryPath, "utf8")) as {
        readonly metrics: Readonly<Record<string, Readonly<Record<string, number>>>>;
      };
      const trend = metrics["iteration_duration"] ?? {};
      return {
        tool: `k6, ${script}`,
        callsPerSecond: metrics["iterations"]?.["rate"] ?? Number.NaN,
        p50Ms: trend["p(50)"] ?? Number.NaN,
        p99Ms: trend["p(99)"] ?? Number.NaN,
      };
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  };
}

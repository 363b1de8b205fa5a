import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { text as readAll } from "node:stream/consumers";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { identify, type ProcessIdentity, stillRuns } from "#kernel/process-identity.ts";
import { projectRoot } from "./settings.ts";

interface Address {
  readonly url: string;
  readonly adminUrl: string;
  readonly pid: number;
}

interface RunFile {
  readonly router: Address;
  readonly controlPlane: Address;
  readonly nodeAgents: readonly (Address & { readonly name: string })[];
  readonly keyFile: string;
}

const command = join(projectRoot, "helixmesh.mjs");
const anyPort = ["--router-port", "0", "--control-port", "0", "--agent-port", "0", "--admin-port-base", "0"];

let root: string;
const started: ChildProcess[] = [];

beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), "helixmesh-up-"));
});
afterAll(async () => {
  for (const child of started) child.kill("SIGTERM");
  await Promise.all(started.map(ended));
  rmSync(root, { recursive: true, force: true });
});

function ended(child: ChildProcess): Promise<unknown> {
  return child.exitCode === null && child.signalCode === null ? once(child, "exit") : Promise.resolve();
}

interface Up {
  readonly child: ChildProcess;
  /** What it printed on stdout until the summary was complete. */
  readonly printed: string;
  readonly run: RunFile;
}

/** Starts a mesh on the simulator and waits for its summary; fails with all that it said when it ends before. */
async function startUp(state: string, ...flags: string[]): Promise<Up> {
  const args = [command, "up", "--engine", "sim", "--state", state, ...anyPort, ...flags];
  const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "pipe"] });
  started.push(child);
  let printed = "";
  let said = "";
  const complete = new Promise<void>((resolve, reject) => {
    child.stdout?.setEncoding("utf8").on("data", (text: string) => {
      printed += text;
      if (printed.includes("Ctrl-C drains")) resolve();
    });
    child.stderr?.setEncoding("utf8").on("data", (text: string) => (said += text));
    child.once("exit", (code) => reject(new Error(`up ended with ${code}:\n${printed}\n${said}`)));
  });
  await complete;
  const run: RunFile = JSON.parse(readFileSync(join(state, "run.json"), "utf8"));
  return { child, printed, run };
}

async function interrupt(child: ChildProcess): Promise<number | null> {
  child.kill("SIGINT");
  await ended(child);
  return child.exitCode;
}

const execute = promisify(execFile);

async function cli(state: string, ...words: string[]): Promise<string> {
  const { stdout } = await execute(process.execPath, [command, ...words, "--state", state]);
  return stdout;
}

async function complete(
  run: RunFile,
  maxTokens: number,
): Promise<{ prompt_tokens: number; completion_tokens: number }> {
  const response = await fetch(`${run.router.url}/v1/chat/completions`, {
    method: "POST",
    headers: {
      authorization: `Bearer ${readFileSync(run.keyFile, "utf8").trim()}`,
      "content-type": "application/json",
    },
    body: JSON.stringify({ model: "pocket", max_tokens: maxTokens, messages: [{ role: "user", content: "Hello" }] }),
  });
  expect(response.status).toBe(200);
  const body: { usage: { prompt_tokens: number; completion_tokens: number } } = JSON.parse(await response.text());
  return body.usage;
}

interface UsageRow {
  readonly group: readonly string[];
  readonly calls: string;
  readonly promptTokens: string;
  readonly completionTokens: string;
  readonly unpricedCalls: string;
  readonly costNanos: string;
}

/** The ledger's sum for the first key, once it holds that many calls: usage arrives a moment after the answer. */
async function usageOfFirstKey(state: string, calls: number): Promise<UsageRow | undefined> {
  const keyId = readFileSync(join(state, "key"), "utf8").split("_")[1] ?? "";
  let rows: UsageRow[] = [];
  async function look(): Promise<string | undefined> {
    rows = JSON.parse(await cli(state, "usage", "--by", "key", "--key", keyId, "--json"));
    return rows[0]?.calls;
  }
  await expect.poll(look, { timeout: 30_000, interval: 300 }).toBe(String(calls));
  return rows[0];
}

function processesOf(run: RunFile): ProcessIdentity[] {
  const all = [run.router, run.controlPlane, ...run.nodeAgents].map(({ pid }) => identify(pid));
  return all.filter((one) => one !== undefined);
}

describe("helixmesh up", { timeout: 180_000 }, () => {
  test("runs a mesh that answers, adds up its usage, drains, and goes on with its state", async () => {
    const state = join(root, "first");
    const first = await startUp(state, "--nodes", "2");
    expect(first.run.nodeAgents.map((agent) => agent.name)).toEqual(["local-1", "local-2"]);
    expect(first.run.keyFile).toBe(join(state, "key"));
    expect(first.printed).toContain(`curl -N ${first.run.router.url}/v1/chat/completions`);
    for (const { adminUrl } of [first.run.router, first.run.controlPlane, ...first.run.nodeAgents]) {
      expect((await fetch(`${adminUrl}/readyz`)).status).toBe(200);
    }

    const usages = [await complete(first.run, 4), await complete(first.run, 8)];
    const row = await usageOfFirstKey(state, 2);
    expect(row).toMatchObject({
      promptTokens: String(usages.reduce((sum, usage) => sum + usage.prompt_tokens, 0)),
      completionTokens: String(usages.reduce((sum, usage) => sum + usage.completion_tokens, 0)),
      unpricedCalls: "0",
    });
    expect(BigInt(row?.costNanos ?? 0)).toBeGreaterThan(0n);

    const key = readFileSync(join(state, "key"), "utf8");
    const processes = processesOf(first.run);
    expect(processes).toHaveLength(4);
    expect(await interrupt(first.child)).toBe(0);
    expect(processes.filter(stillRuns)).toEqual([]);
    expect(existsSync(join(state, "run.json"))).toBe(false);

    const second = await startUp(state, "--nodes", "1");
    expect(second.run.nodeAgents.map((agent) => agent.name)).toEqual(["local-1"]);
    expect(readFileSync(join(state, "key"), "utf8")).toBe(key);
    await complete(second.run, 4);
    await usageOfFirstKey(state, 3);
    const deployments: { replicas: number }[] = JSON.parse(await cli(state, "deployments", "list", "--json"));
    expect(deployments.map((deployment) => deployment.replicas)).toEqual([1]);
    expect(await interrupt(second.child)).toBe(0);
  });

  test("starts a killed service again, refuses a second up, and takes its children along when it is killed itself", async () => {
    const state = join(root, "second");
    const { child, run } = await startUp(state);

    const again = await execute(process.execPath, [command, "up", "--state", state, ...anyPort]).catch(
      (error: unknown) => error,
    );
    expect(again).toMatchObject({
      code: 1,
      stderr: expect.stringContaining(`Process ${child.pid} already runs a mesh`),
    });

    process.kill(run.router.pid, "SIGKILL");
    const current = async (): Promise<RunFile> => JSON.parse(readFileSync(join(state, "run.json"), "utf8"));
    await expect.poll(async () => (await current()).router.pid, { timeout: 30_000 }).not.toBe(run.router.pid);
    expect((await current()).router.url).toBe(run.router.url);
    await complete(await current(), 4);

    const processes = processesOf(await current());
    child.kill("SIGKILL");
    await expect.poll(() => processes.filter(stillRuns), { timeout: 60_000 }).toEqual([]);

    const next = await startUp(state);
    await complete(next.run, 4);
    expect(await interrupt(next.child)).toBe(0);
  });

  test("refuses a port in use before it starts anything", async () => {
    const server = createServer().listen(0, "127.0.0.1");
    await once(server, "listening");
    const address = server.address();
    const port = typeof address === "object" ? (address?.port ?? 0) : 0;
    const state = join(root, "third");
    const flags = ["--state", state, ...anyPort, "--router-port", String(port)];
    const child = spawn(process.execPath, [command, "up", ...flags], { stdio: ["ignore", "ignore", "pipe"] });
    const said = await readAll(child.stderr);
    await ended(child);
    expect(child.exitCode).toBe(1);
    expect(said).toMatch(new RegExp(`Port ${port} is in use.*--router-port`));
    expect(existsSync(join(state, "logs", "control-plane.log"))).toBe(false);
    server.close();
  });

  test("names every wrong flag at once", async () => {
    const wrong = await execute(process.execPath, [command, "up", "--nodes", "0", "--engine", "cuda", "--nope"]).catch(
      (error: unknown) => error,
    );
    expect(wrong).toMatchObject({
      code: 2,
      stderr: expect.stringMatching(/--nodes[^]*--engine[^]*--nope|--nope[^]*--nodes[^]*--engine/),
    });
  });
});

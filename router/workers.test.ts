import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { InferenceService } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { Outcome } from "#gen/helixmesh/type/v1/type_pb.ts";
import { tellStory } from "./link/test-agent.ts";
import { type TestMesh, startTestMesh } from "./test-router.ts";

interface Router {
  readonly url: string;
  readonly adminUrl: string;
  readonly child: ChildProcess;
  /** Process ids of the workers, as its log names them, in the order in which they came up. */
  readonly workerPids: number[];
  stop(): Promise<unknown>;
}

/** Its router is not asked: it has the control plane and the agent for the one under test. */
let mesh: TestMesh;
let stateDir = "";
const routers: Router[] = [];
beforeEach(async () => {
  mesh = await startTestMesh({ agents: [{}] });
  stateDir = await mkdtemp(join(tmpdir(), "router-workers-"));
});
afterEach(async () => {
  for (const { child } of routers.splice(0)) child.kill("SIGKILL");
  await mesh.close();
  await rm(stateDir, { recursive: true, force: true });
});

async function start(...flags: string[]): Promise<Router> {
  const main = join(import.meta.dirname, "main.ts");
  const args = [
    main,
    "--port=0",
    "--admin-port=0",
    `--control-url=${mesh.control.url}`,
    `--key-file=${join(mesh.stateDir, "router-key")}`,
    `--state-dir=${stateDir}`,
    "--router-id=many",
    ...flags,
  ];
  const child = spawn(process.execPath, args, { stdio: ["ignore", "ignore", "pipe", "ipc"] });
  const workerPids: number[] = [];
  let rest = "";
  child.stderr?.setEncoding("utf8").on("data", (text: string) => {
    const lines = (rest + text).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) {
      const pid = /"workerPid":([0-9]+)/.exec(line)?.[1];
      if (pid !== undefined) workerPids.push(Number(pid));
    }
  });
  const [{ url, adminUrl }] = (await once(child, "message")) as [{ url: string; adminUrl: string }];
  const exited = once(child, "exit");
  const router = {
    url,
    adminUrl,
    child,
    workerPids,
    stop() {
      child.kill("SIGTERM");
      return exited;
    },
  };
  routers.push(router);
  while (!(await fetch(`${adminUrl}/readyz`)).ok) await pause();
  return router;
}

const pause = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 20));

async function ask({ url }: Router, callId: string): Promise<string> {
  // A connection each: whole connections go to a worker.
  const client = createClient(InferenceService, createGrpcTransport({ baseUrl: url }));
  const headers = { authorization: `Bearer ${mesh.key}`, "x-request-id": callId };
  let text = "";
  for await (const { event } of client.generate(
    { model: "pocket", input: { case: "prompt", value: "Once" } },
    { headers },
  )) {
    if (event.case === "delta") text += event.value.text;
  }
  return text;
}

async function metricsOf({ adminUrl }: Router, until: RegExp): Promise<string> {
  for (;;) {
    const text = await (await fetch(`${adminUrl}/metrics`)).text();
    if (until.test(text)) return text;
    await pause();
  }
}

/** Tells every call that comes its story, until the agent is closed. */
async function answerAll(): Promise<void> {
  for (const agent of mesh.agents) for (;;) tellStory(await agent.nextCall());
}

describe("a router with two workers", () => {
  test("shares the port, sums the metrics, and starts a worker again that was killed", async () => {
    void answerAll();
    const router = await start("--workers=2");
    await metricsOf(router, /router_links_up\{[^}]*\} 2\n/);
    const calls = Array.from({ length: 8 }, (_, index) => ask(router, `a${index}`));
    expect(new Set(await Promise.all(calls))).toEqual(new Set(["Once upon a time."]));
    const before = await metricsOf(router, /router_calls_total\{[^}]*outcome="completed"[^}]*\} 8\n/);
    // Not the sum of both, which is the version of no snapshot.
    expect(before).toMatch(/router_discovery_version\{[^}]*\} 1\n/);
    expect(before).toMatch(/router_discovery_connected\{[^}]*\} 1\n/);
    await mesh.control.until(() => mesh.control.usage.length === 8);
    for (const pid of router.workerPids.slice(0, 1)) process.kill(pid, "SIGKILL");
    await metricsOf(router, /router_worker_exits_total\{[^}]*\} 1\n/);
    expect(await ask(router, "between")).toBe("Once upon a time.");
    const text = await metricsOf(router, /router_workers\{[^}]*\} 2\n/);
    expect(text.match(/^# TYPE helixmesh_router_workers /gm)).toHaveLength(1);
    await metricsOf(router, /router_calls_total\{[^}]*outcome="completed"[^}]*\} 9\n/);
    expect(router.workerPids).toHaveLength(3);
    await Promise.all(Array.from({ length: 4 }, (_, index) => ask(router, `b${index}`)));
    expect(await router.stop()).toEqual([0, null]);
    const between = mesh.control.usage.map(({ callId }) => callId).filter((callId) => !callId.startsWith("a"));
    expect(between.toSorted()).toEqual(["b0", "b1", "b2", "b3", "between"]);
  });

  test("finishes its calls after SIGTERM and exits with 0", async () => {
    const router = await start("--workers=2");
    const answer = ask(router, "last");
    const call = await mesh.agents[0]?.nextCall();
    call?.started();
    call?.text("Once ");
    const stopped = router.stop();
    while ((await fetch(`${router.adminUrl}/readyz`)).ok) await pause();
    call?.text("more.");
    call?.finish();
    expect(await answer).toBe("Once more.");
    expect(await stopped).toEqual([0, null]);
    expect(mesh.control.usage).toMatchObject([{ callId: "last", outcome: Outcome.COMPLETED }]);
  });

  test("ends with 1 when its port is taken", async () => {
    const router = await start("--workers=2");
    const { port } = new URL(router.url);
    await mkdir(join(stateDir, "second"));
    const args = ["--workers=2", `--port=${port}`, `--state-dir=${join(stateDir, "second")}`, "--admin-port=0"];
    const second = spawn(process.execPath, [join(import.meta.dirname, "main.ts"), ...args], { stdio: "ignore" });
    expect((await once(second, "exit"))[0]).toBe(1);
  });
});

test("usage that is left of more workers is shipped by fewer", async () => {
  void answerAll();
  const many = await start("--workers=3", "--usage-flush-timeout=0");
  // Only a worker that has its snapshot takes calls without a control plane.
  await metricsOf(many, /router_links_up\{[^}]*\} 3\n/);
  await mesh.control.close();
  await Promise.all(Array.from({ length: 9 }, (_, index) => ask(many, `c${index}`)));
  await many.stop();
  expect(mesh.control.usage).toEqual([]);
  await mesh.control.listen(mesh.control.port);
  const one = await start();
  await mesh.control.until(() => mesh.control.usage.filter(({ callId }) => callId.startsWith("c")).length === 9);
  expect(await one.stop()).toEqual([0, null]);
});

import { mkdtemp, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { create, toBinary } from "@bufbuild/protobuf";
import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { Health, HealthCheckResponse_ServingStatus } from "#gen/grpc/health/v1/health_pb.ts";
import { ServerReflection } from "#gen/grpc/reflection/v1/reflection_pb.ts";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { GenerateRequestSchema } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { type ConnectResponse, LinkService, Method, type PrefixDigest } from "#gen/helixmesh/link/v1/link_pb.ts";
import { type DesiredReplica, DesiredReplicaSchema } from "#gen/helixmesh/node/v1/node_pb.ts";
import { EngineKind, ReplicaState } from "#gen/helixmesh/type/v1/type_pb.ts";
import { systemClock } from "#kernel/clock.ts";
import { silentLogger } from "#kernel/log.ts";
import { Metrics } from "#kernel/metrics.ts";
import { promptBlocks } from "#kernel/prompt-blocks.ts";
import { systemRandom } from "#kernel/random.ts";
import type { RunningService } from "#kernel/run-service.ts";
import { loadSettings } from "#kernel/settings.ts";
import { startAgent } from "./agent.ts";
import { TestControlPlane } from "./control/test-control-plane.ts";
import { TestRouter, encode } from "./link/test-router.ts";
import { agentSettings, nameFromHost } from "./settings.ts";

let dir = "";
const cleanups: (() => Promise<void> | void)[] = [];
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), "helixmesh-agent-"));
  await writeFile(join(dir, "node-key"), "node-key\n", { mode: 0o600 });
});
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).toReversed()) await cleanup();
  await rm(dir, { recursive: true });
});

function sim(replicaId: string): DesiredReplica {
  return create(DesiredReplicaSchema, {
    replicaId,
    deployment: "d",
    model: "m",
    engine: EngineKind.SIM,
    engineOptions: { time_scale: "0" },
  });
}

async function startControlPlane(desired: DesiredReplica[], port = 0): Promise<TestControlPlane> {
  const controlPlane = await new TestControlPlane(desired).start(port);
  cleanups.push(() => controlPlane.close());
  return controlPlane;
}

async function start(
  controlPort: number,
  overrides: Record<string, string> = {},
): Promise<RunningService & { linkPort: number }> {
  const options = {
    name: "node-a",
    "control-url": `http://127.0.0.1:${controlPort}`,
    "key-file": join(dir, "node-key"),
    "state-dir": join(dir, "state"),
    port: "0",
    "admin-port": "0",
    "drain-timeout": "5s",
    ...overrides,
  };
  const argv = Object.entries(options).map(([flag, value]) => `--${flag}=${value}`);
  const loaded = loadSettings(agentSettings, { argv, env: {}, command: "helixmesh node-agent" });
  if (loaded.kind !== "settings") throw new Error(JSON.stringify(loaded));
  const agent = await startAgent(loaded.settings, {
    logger: silentLogger,
    metrics: new Metrics("node-agent"),
    clock: systemClock,
    random: systemRandom,
    crash: (error) => {
      throw error;
    },
  });
  let drained: Promise<void> | undefined;
  const drain = () => (drained ??= agent.drain());
  cleanups.push(drain);
  return { ...agent, drain, linkPort: Number(new URL(agent.url ?? "").port) };
}

function connect(port: number): TestRouter {
  const router = new TestRouter(port, "link-token");
  cleanups.push(() => router.close());
  return router;
}

const isReady = (controlPlane: TestControlPlane, replicaId: string) => () =>
  controlPlane.statuses
    .at(-1)
    ?.replicas.some((replica) => replica.replicaId === replicaId && replica.state === ReplicaState.READY) ?? false;

function ask(router: TestRouter, replicaId: string, relayed: Uint8Array[] = []) {
  const input = { case: "prompt" as const, value: "Hello there" };
  const request = encode(GenerateRequestSchema, { model: "m", input, maxOutputTokens: 5, sampling: { seed: 1n } });
  return router.start({ replicaId, method: Method.GENERATE, request, deployment: "d", relayed });
}

async function* once<T>(message: T): AsyncGenerator<T> {
  yield message;
}

describe("the agent", () => {
  test("registers, runs what is desired, serves it and ships what was used", async () => {
    const controlPlane = await startControlPlane([sim("r1")]);
    const agent = await start(controlPlane.port, { labels: "gpu=none,disk=b", zone: "eu-1a" });
    await controlPlane.until(isReady(controlPlane, "r1"));
    expect(controlPlane.registrations).toMatchObject([
      {
        name: "node-a",
        linkAddress: `127.0.0.1:${agent.linkPort}`,
        labels: { gpu: "none", disk: "b" },
        zone: "eu-1a",
        engines: [EngineKind.LLAMA_CPP, EngineKind.SIM],
      },
    ]);
    const router = connect(agent.linkPort);
    await router.hello();
    const call = ask(router, "r1");
    expect((await call.ended).reason).toBe(Reason.UNSPECIFIED);
    await controlPlane.until(() => controlPlane.usage.length > 0 && controlPlane.heartbeats > 2);
    expect(controlPlane.usage).toMatchObject([
      { nodeId: "n1", model: "m", deployment: "d", usage: { completionTokens: 5 } },
    ]);
  });

  test("continues a call that another agent began, and counts the whole of it", async () => {
    const controlPlane = await startControlPlane([sim("r1")]);
    const agent = await start(controlPlane.port);
    await controlPlane.until(isReady(controlPlane, "r1"));
    const router = connect(agent.linkPort);
    await router.hello();
    const whole = ask(router, "r1");
    await whole.ended;
    const moved = ask(router, "r1", whole.responses.slice(0, 4));
    const end = await moved.ended;
    expect(moved.responses).toEqual(whole.responses.slice(4));
    expect({ ...end.usage, here: moved.tokens() }).toMatchObject({ completionTokens: 5, here: 2 });
  });

  test("tells routers what its engines hold of prompts, also those that connect later or lost track", async () => {
    const controlPlane = await startControlPlane([sim("r1")]);
    const agent = await start(controlPlane.port, { "prefix-block-bytes": "64" });
    await controlPlane.until(isReady(controlPlane, "r1"));
    const router = connect(agent.linkPort);
    const hello = await router.hello();
    expect(hello.frame).toMatchObject({ value: { prefixBlockBytes: 64 } });
    const input = { case: "prompt" as const, value: "A fox and an owl. ".repeat(20) };
    const request = create(GenerateRequestSchema, { model: "m", input, maxOutputTokens: 2 });
    const call = { replicaId: "r1", method: Method.GENERATE, request: toBinary(GenerateRequestSchema, request) };
    expect((await router.start(call).ended).reason).toBe(Reason.UNSPECIFIED);
    const wanted = String(promptBlocks(request, 64, 1_000).sort());
    const holdsAll = (fits: (digest: PrefixDigest) => boolean) => (frame: ConnectResponse) =>
      frame.frame.case === "step" &&
      frame.frame.value.prefixes.some(
        (digest) => fits(digest) && String(Uint32Array.from(digest.added).sort()) === wanted,
      );
    await router.frame(holdsAll(() => true));
    router.send({ case: "calls", value: { resendPrefixes: ["r1"] } });
    await router.frame(holdsAll((digest) => digest.snapshot && digest.sequence > 1n));
    const late = connect(agent.linkPort);
    await late.hello();
    await late.frame(holdsAll((digest) => digest.snapshot && digest.sequence === 1n));
  });

  test("drains a replica that is no longer desired and starts the new one", async () => {
    const controlPlane = await startControlPlane([sim("r1")]);
    await start(controlPlane.port);
    await controlPlane.until(isReady(controlPlane, "r1"));
    controlPlane.setDesired([sim("r2")]);
    await controlPlane.until(isReady(controlPlane, "r2"));
    await controlPlane.until(() => controlPlane.statuses.at(-1)?.replicas.length === 1);
    expect(controlPlane.statuses.at(-1)?.replicas.map((replica) => replica.replicaId)).toEqual(["r2"]);
  });

  test("serves again after a restart while the control plane is gone, and ships the usage when it is back", async () => {
    const controlPlane = await startControlPlane([sim("r1")]);
    const { port } = controlPlane;
    const first = await start(port);
    await controlPlane.until(isReady(controlPlane, "r1"));
    await first.drain();
    await controlPlane.close();
    const second = await start(port);
    const ready = await fetch(`${second.adminUrl}/readyz`);
    expect(ready.status).toBe(200);
    const router = connect(second.linkPort);
    await router.hello();
    await router.frame(
      ({ frame }) =>
        (frame.case === "hello" || frame.case === "step") &&
        frame.value.replicas.some((replica) => replica.state === ReplicaState.READY),
    );
    expect((await ask(router, "r1").ended).reason).toBe(Reason.UNSPECIFIED);
    const returned = await startControlPlane([sim("r1")], port);
    await returned.until(() => returned.usage.length === 1);
    expect(returned.usage).toMatchObject([{ model: "m", usage: { completionTokens: 5 } }]);
  });

  test("registers again when the control plane no longer knows its token", async () => {
    const controlPlane = await startControlPlane([sim("r1")]);
    await start(controlPlane.port);
    await controlPlane.until(isReady(controlPlane, "r1"));
    controlPlane.nodeToken = "another-token";
    await controlPlane.until(() => controlPlane.registrations.length === 2);
    const before = controlPlane.heartbeats;
    await controlPlane.until(() => controlPlane.heartbeats > before);
  });

  test("keeps its secrets where only its user can read them", async () => {
    const controlPlane = await startControlPlane([]);
    await start(controlPlane.port);
    await controlPlane.until(() => controlPlane.heartbeats > 0);
    const file = await stat(join(dir, "state", "agent.json"));
    expect((file.mode & 0o777).toString(8)).toBe("600");
  });

  test("tells the control plane that it drains", async () => {
    const controlPlane = await startControlPlane([sim("r1")]);
    const agent = await start(controlPlane.port);
    await controlPlane.until(isReady(controlPlane, "r1"));
    await agent.drain();
    expect(controlPlane.statuses.some((status) => status.draining)).toBe(true);
  });

  test("answers standard health and reflection on the link port", async () => {
    const controlPlane = await startControlPlane([]);
    const agent = await start(controlPlane.port);
    const transport = createGrpcTransport({ baseUrl: agent.url ?? "" });
    const health = await createClient(Health, transport).check({ service: LinkService.typeName });
    expect(health.status).toBe(HealthCheckResponse_ServingStatus.SERVING);
    const asked = { messageRequest: { case: "listServices" as const, value: "" } };
    const listed: string[] = [];
    for await (const { messageResponse } of createClient(ServerReflection, transport).serverReflectionInfo(
      once(asked),
    )) {
      const services = messageResponse.case === "listServicesResponse" ? messageResponse.value.service : [];
      listed.push(...services.map((service) => service.name));
    }
    expect(listed).toContain(LinkService.typeName);
  });

  test("says what is wrong with a name, a label, a zone and an engine", async () => {
    await expect(start(1, { name: "Node_A" })).rejects.toThrow(/Node_A.*a-z/);
    await expect(start(1, { labels: "zone" })).rejects.toThrow(/"zone".*key=value/);
    await expect(start(1, { zone: "eu 1a" })).rejects.toThrow(/"eu 1a".*letter or digit/);
    await expect(start(1, { engines: "vllm" })).rejects.toThrow(/"vllm".*llama-cpp, sim/);
  });

  test("makes a node's name of any host's name", () => {
    expect(["GPU_01.example.COM", "--", "ü".repeat(80), "a".repeat(90)].map(nameFromHost)).toEqual([
      "gpu-01-example-com",
      "node",
      "node",
      "a".repeat(63),
    ]);
  });
});

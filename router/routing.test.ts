import { createClient } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport, createGrpcWebTransport } from "@connectrpc/connect-node";
import { afterEach, describe, expect, test } from "vitest";
import { InferenceService } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { tellStory } from "./link/test-agent.ts";
import type { Explanation } from "./routing/explain.ts";
import { type TestMesh, startTestMesh } from "./test-router.ts";

let mesh: TestMesh | undefined;
afterEach(async () => {
  await mesh?.close();
  mesh = undefined;
});

async function start(): Promise<TestMesh> {
  mesh = await startTestMesh({ agents: [{ onCall: tellStory }, { onCall: tellStory }] });
  return mesh;
}

const asks = (key: string, more: Record<string, string> = {}) => ({
  authorization: `Bearer ${key}`,
  "x-helixmesh-explain": "1",
  ...more,
});

const body = JSON.stringify({ model: "pocket", messages: [{ role: "user", content: "Once" }], stream: true });

async function explained(router: TestMesh, more: Record<string, string> = {}): Promise<Explanation> {
  const headers = { ...asks(router.key, more), "content-type": "application/json" };
  const response = await fetch(`${router.url}/v1/chat/completions`, { method: "POST", headers, body });
  expect(response.status).toBe(200);
  await response.text();
  return JSON.parse(response.headers.get("x-helixmesh-explain") ?? "null") as Explanation;
}

describe("a call that asks why it goes where it goes", () => {
  test.each([
    ["gRPC", (baseUrl: string) => createGrpcTransport({ baseUrl })],
    ["gRPC-Web", (baseUrl: string) => createGrpcWebTransport({ baseUrl, httpVersion: "1.1" })],
    ["Connect", (baseUrl: string) => createConnectTransport({ baseUrl, httpVersion: "1.1" })],
  ] as const)("is told so in a header over %s", async (_name, transport) => {
    const router = await start();
    let told: string | null = null;
    const request = { model: "pocket", input: { case: "prompt", value: "Once" } } as const;
    const client = createClient(InferenceService, transport(router.url));
    const stream = client.generate(request, {
      headers: asks(router.key),
      onHeader: (headers) => void (told = headers.get("x-helixmesh-explain")),
    });
    const cases: (string | undefined)[] = [];
    for await (const { event } of stream) cases.push(event.case);
    expect(cases[0]).toBe("started");
    expect(JSON.parse(told ?? "null")).toMatchObject({
      policy: "predicted-ttft",
      why: "predicted",
      model: "pocket",
      deployment: "pocket-deployment",
      node: expect.stringMatching(/^node-[12]$/),
      candidates: [{ ttftMs: expect.any(Number), matchedBlocks: 0 }, {}],
    });
  });

  test("is told so over the OpenAI door; who does not ask is not", async () => {
    const router = await start();
    expect(await explained(router)).toMatchObject({ deployment: "pocket-deployment", promptBlocks: 0 });
    const headers = { authorization: `Bearer ${router.key}`, "content-type": "application/json" };
    const silent = await fetch(`${router.url}/v1/chat/completions`, { method: "POST", headers, body });
    await silent.text();
    expect(silent.headers.has("x-helixmesh-explain")).toBe(false);
  });

  test("stays with its session's replica", async () => {
    const router = await start();
    const nodes = new Set<string>();
    for (let i = 0; i < 5; i++) {
      const { node, why } = await explained(router, { "x-helixmesh-session": "conversation-1" });
      expect(why).toBe("session");
      nodes.add(node);
    }
    expect(nodes.size).toBe(1);
  });
});

describe("a model with a second deployment", () => {
  async function startSplit(routing: { canary?: string; shadowPercent?: number }): Promise<TestMesh> {
    const router = await start();
    router.control.send({
      version: 2n,
      upserts: {
        deployments: [{ name: "second", model: "pocket", routing }],
        replicas: [{ replicaId: "replica-2", deployment: "second", nodeId: "node-2" }],
      },
    });
    return router;
  }

  test("serves the calls of its canary from it, and no others", async () => {
    const router = await startSplit({ canary: "next" });
    // The delta arrives in its own time.
    let canary = await explained(router, { "x-helixmesh-canary": "next" });
    while (canary.deployment !== "second") canary = await explained(router, { "x-helixmesh-canary": "next" });
    for (let i = 0; i < 5; i++) expect((await explained(router)).deployment).toBe("pocket-deployment");
  });

  test("copies calls to a shadow, whose usage says so and is on nobody's bill", async () => {
    const router = await startSplit({ shadowPercent: 100 });
    while (!router.control.usage.some(({ labels }) => labels["shadow"] === "second")) await explained(router);
    const copy = router.control.usage.find(({ labels }) => labels["shadow"] === "second");
    expect(copy).toMatchObject({ deployment: "second", nodeId: "node-2", model: "pocket", door: "shadow" });
    expect(copy).toMatchObject({ keyId: "", projectId: "" });
    const real = router.control.usage.filter(({ labels }) => labels["shadow"] === undefined);
    expect(real.length).toBeGreaterThan(0);
    expect(real.map(({ callId }) => callId)).not.toContain(copy?.callId);
    for (const { keyId, projectId } of real) expect([keyId, projectId]).not.toContain("");
  });
});

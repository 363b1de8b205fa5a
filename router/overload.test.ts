import { Code, ConnectError, type Transport, createClient } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport, createGrpcWebTransport } from "@connectrpc/connect-node";
import { afterEach, describe, expect, test } from "vitest";
import { ErrorDetailSchema, Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { InferenceService } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { Outcome, ReplicaState } from "#gen/helixmesh/type/v1/type_pb.ts";
import type { AgentCall, TestAgent } from "./link/test-agent.ts";
import { type TestMesh, type TestMeshOptions, startTestMesh } from "./test-router.ts";

let mesh: TestMesh | undefined;
afterEach(async () => {
  await mesh?.close();
  mesh = undefined;
});

/** A mesh of one agent whose engine decodes one sequence at a time, so that it gets two calls at most. */
async function start(options: TestMeshOptions = {}): Promise<TestMesh & { readonly agent: TestAgent }> {
  const capabilities = { parallelSequences: 1 };
  mesh = await startTestMesh({ agents: [{ capabilities }], ...options });
  const [agent] = mesh.agents;
  if (!agent) throw new Error("the mesh has an agent");
  return { ...mesh, agent };
}

interface Asked {
  readonly key: string;
  readonly priority?: number;
  readonly timeoutMs?: number;
  readonly transport?: (url: string) => Transport;
}

const grpc = (baseUrl: string): Transport => createGrpcTransport({ baseUrl });

/** What became of a call: its text, or how it failed. */
async function ask(callId: string, { url }: TestMesh, asked: Asked): Promise<string | ConnectError> {
  const { key, priority, timeoutMs, transport = grpc } = asked;
  const client = createClient(InferenceService, transport(url));
  const request = { model: "pocket", input: { case: "prompt", value: "Once" }, priority } as const;
  const headers = { authorization: `Bearer ${key}`, "x-request-id": callId };
  try {
    let text = "";
    const options = { headers, ...(timeoutMs !== undefined && { timeoutMs }) };
    for await (const { event } of client.generate(request, options)) {
      if (event.case === "delta") text += event.value.text;
    }
    return text;
  } catch (error) {
    return ConnectError.from(error);
  }
}

/** Resolves when that many calls wait in the router's queue. */
async function waiting({ metrics }: TestMesh, calls: number): Promise<void> {
  const line = new RegExp(`router_queue_entries\\{[^}]*\\} ${calls}\n`);
  while (!line.test(await metrics())) await new Promise((resolve) => setTimeout(resolve, 5));
}

/** Answers with as many tokens as asked. */
function answer(call: AgentCall, tokens = 3): void {
  call.started();
  call.text(call.start.callId, tokens);
  call.finish();
}

/** Answers the calls one after the other and says in which order they came. */
async function serve(agent: TestAgent, calls: number): Promise<string[]> {
  const order: string[] = [];
  while (order.length < calls) {
    const call = await agent.nextCall();
    order.push(call.start.callId);
    answer(call);
  }
  return order;
}

describe("a router whose replicas are busy", () => {
  test("serves the waiting calls by priority, all of them, each once", async () => {
    const router = await start();
    const { agent, key, control } = router;
    const answers = ["first", "second"].map((id) => ask(id, router, { key }));
    const running = [await agent.nextCall(), await agent.nextCall()];
    const ids: string[] = [];
    for (const priority of [0, 5, 9]) {
      for (const number of [1, 2]) {
        ids.push(`${priority}-${number}`);
        answers.push(ask(`${priority}-${number}`, router, { key, priority }));
        await waiting(router, ids.length);
      }
    }
    for (const call of running) answer(call);
    expect(await serve(agent, 6)).toEqual(["9-1", "9-2", "5-1", "5-2", "0-1", "0-2"]);
    expect(await Promise.all(answers)).toEqual(["first", "second", ...ids]);
    await control.until(() => control.usage.length === 8);
    expect(new Set(control.usage.map(({ outcome, attempts }) => `${outcome} ${attempts}`))).toEqual(
      new Set([`${Outcome.COMPLETED} 1`]),
    );
  });

  test("shares turns between projects, however many calls each has waiting", async () => {
    const router = await start();
    const { agent, key, otherKey } = router;
    const answers = ["first", "second"].map((id) => ask(id, router, { key }));
    const running = [await agent.nextCall(), await agent.nextCall()];
    for (let number = 1; number <= 12; number++) answers.push(ask(`many-${number}`, router, { key }));
    await waiting(router, 12);
    for (let number = 1; number <= 4; number++) answers.push(ask(`few-${number}`, router, { key: otherKey }));
    await waiting(router, 16);
    for (const call of running) answer(call);
    const order = await serve(agent, 16);
    const few = order.flatMap((id, index) => (id.startsWith("few") ? [index] : []));
    expect(few).toHaveLength(4);
    expect(few.at(-1)).toBeLessThanOrEqual(9);
    await Promise.all(answers);
  });

  test.each([
    ["gRPC", grpc],
    ["gRPC-Web", (baseUrl: string) => createGrpcWebTransport({ baseUrl, httpVersion: "1.1" as const })],
    ["Connect", (baseUrl: string) => createConnectTransport({ baseUrl, httpVersion: "1.1" as const })],
  ])("refuses over %s what may not wait, with when to come again", async (_name, transport) => {
    const router = await start({ flags: ["--queue-entries=0"] });
    const { agent, key } = router;
    const answers = ["first", "second"].map((id) => ask(id, router, { key }));
    const running = [await agent.nextCall(), await agent.nextCall()];
    const refused = await ask("third", router, { key, transport });
    expect(refused).toMatchObject({ code: Code.ResourceExhausted });
    expect(ConnectError.from(refused).findDetails(ErrorDetailSchema)[0]).toMatchObject({
      reason: Reason.OVERLOADED,
      limit: "0 waiting calls",
      retryable: true,
      retryAfterMs: 1_000n,
    });
    for (const call of running) answer(call);
    await Promise.all(answers);
  });

  test("refuses over HTTP what may not wait, with the header retry-after", async () => {
    const router = await start({ flags: ["--queue-entries=0"] });
    const { agent, key, url } = router;
    const answers = ["first", "second"].map((id) => ask(id, router, { key }));
    const running = [await agent.nextCall(), await agent.nextCall()];
    const response = await fetch(`${url}/v1/chat/completions`, {
      method: "POST",
      headers: { authorization: `Bearer ${key}`, "content-type": "application/json" },
      body: JSON.stringify({ model: "pocket", messages: [{ role: "user", content: "Hi" }] }),
    });
    expect(response.status).toBe(503);
    expect(response.headers.get("retry-after")).toBe("1");
    expect(await response.json()).toMatchObject({ error: { code: "overloaded" } });
    for (const call of running) answer(call);
    await Promise.all(answers);
  });

  test("gives a waiting call up while its deadline can just not be met any more, and says so", async () => {
    const router = await start();
    const { agent, key, metrics } = router;
    const slow = ask("slow", router, { key });
    const measured = await agent.nextCall();
    measured.started();
    await new Promise((resolve) => setTimeout(resolve, 500));
    measured.text("slow");
    measured.finish();
    await slow;
    const answers = ["first", "second"].map((id) => ask(id, router, { key }));
    const running = [await agent.nextCall(), await agent.nextCall()];
    const late = await ask("late", router, { key, timeoutMs: 2_000 });
    expect(late).toMatchObject({ code: Code.DeadlineExceeded });
    expect(ConnectError.from(late).rawMessage).toMatch(/^The deadline cannot be met: the call waited [\d.]+ m?s for/);
    expect(await metrics()).toMatch(/queue_ends_total\{deployment="pocket-deployment",outcome="too-late"[^}]*\} 1/);
    for (const call of running) answer(call);
    expect(await Promise.all(answers)).toEqual(["first", "second"]);
  });

  test("puts a call that an engine refused as full back in line, and the call is answered", async () => {
    const router = await start({ agents: [{}] });
    const { agent, key, control } = router;
    const first = ask("first", router, { key });
    const running = await agent.nextCall();
    const second = ask("second", router, { key });
    (await agent.nextCall()).end({ reason: Reason.OVERLOADED, message: "full." });
    await waiting(router, 1);
    answer(running);
    answer(await agent.nextCall());
    expect(await Promise.all([first, second])).toEqual(["first", "second"]);
    await control.until(() => control.usage.length === 2);
    expect(control.usage.find(({ callId }) => callId === "second")?.attempts).toBe(2);
  });

  test("sees by the reported load that another router's calls have ended", async () => {
    const router = await start();
    const { agent, key, metrics } = router;
    agent.sendLoad({ replicaId: "replica-1", running: 1, queued: 3 });
    // A step that comes after the load: by then the router has taken it in.
    agent.setState(ReplicaState.WARMING);
    await notReady(router);
    agent.setState(ReplicaState.READY);
    const held = ask("held", router, { key });
    await waiting(router, 1);
    agent.sendLoad({ replicaId: "replica-1" });
    answer(await agent.nextCall());
    expect(await held).toBe("held");
    expect(await metrics()).toMatch(/queue_ends_total\{deployment="pocket-deployment",outcome="turn"[^}]*\} 1/);
  });
});

describe("a router whose replicas are not ready", () => {
  test("holds calls and lets them go by priority when one is", async () => {
    const router = await start();
    const { agent, key } = router;
    agent.setState(ReplicaState.LOADING);
    await notReady(router);
    const low = ask("low", router, { key, priority: 1 });
    await waiting(router, 1);
    const high = ask("high", router, { key, priority: 8 });
    await waiting(router, 2);
    agent.setState(ReplicaState.READY);
    expect(await serve(agent, 2)).toEqual(["high", "low"]);
    expect(await Promise.all([low, high])).toEqual(["low", "high"]);
  });

  test("says at the end of the wait what the replicas were doing", async () => {
    const router = await start({ flags: ["--ready-wait=200"] });
    router.agent.setState(ReplicaState.FETCHING);
    await notReady(router);
    const refused = await ask("cold", router, { key: router.key });
    expect(refused).toMatchObject({ code: Code.Unavailable });
    expect(ConnectError.from(refused).rawMessage).toMatch(/waited \d+ ms .* \(1 fetching weights\)/);
  });
});

async function notReady({ url, key }: TestMesh): Promise<void> {
  const client = createClient(InferenceService, grpc(url));
  const headers = { authorization: `Bearer ${key}` };
  while ((await client.listModels({}, { headers })).models.some(({ readyReplicas }) => readyReplicas > 0)) {
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

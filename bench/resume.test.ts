import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport } from "@connectrpc/connect-node";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  type GenerateRequestSchema,
  type GenerateResponse,
  InferenceService,
  Role,
} from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { EngineKind, Outcome } from "#gen/helixmesh/type/v1/type_pb.ts";
import { seededRandom } from "#kernel/random.ts";
import { type TestMesh, startTestMesh } from "../router/test-router.ts";
import { AgentProcess } from "./agent-process.ts";
import { readAnswer } from "./read-answer.ts";
import { RouterProcess } from "./router-process.ts";

type Request = Exclude<MessageInitShape<typeof GenerateRequestSchema>, { $typeName: string }>;

interface ServerEvent {
  readonly data: string;
  readonly id: string;
}

interface Chunk {
  readonly id: string;
  readonly created: number;
  readonly choices: readonly {
    readonly index: number;
    readonly text?: string;
    readonly delta?: { readonly role?: string; readonly content?: string | null; readonly tool_calls?: unknown };
    readonly finish_reason: string | null;
  }[];
  readonly usage?: { readonly completion_tokens: number } | null;
}

/** What a client puts together from all events of a stream, whatever their cut. */
function readEvents(events: readonly ServerEvent[]) {
  const chunks = events.slice(0, -1).map(({ data }) => JSON.parse(data) as Chunk);
  const parts = chunks.flatMap((chunk) => chunk.choices);
  const choices = [...new Set(parts.map(({ index }) => index))]
    .sort((a, b) => a - b)
    .map((index) => {
      const own = parts.filter((part) => part.index === index);
      return {
        text: own.map(({ text, delta }) => text ?? delta?.content ?? "").join(""),
        roles: own.flatMap(({ delta }) => delta?.role ?? []),
        // Their ids are drawn anew for each call.
        toolCalls: own.flatMap(({ delta }) =>
          delta?.tool_calls ? JSON.stringify(delta.tool_calls).replace(/"id":"[^"]*"/g, "") : [],
        ),
        finishReasons: own.flatMap(({ finish_reason }) => finish_reason ?? []),
      };
    });
  const usage = chunks.flatMap((chunk) => chunk.usage ?? []);
  return { choices, completionTokens: usage.map((one) => one.completion_tokens), last: events.at(-1)?.data };
}

const weather = [{ name: "get_weather", parametersJson: '{"type":"object","properties":{"city":{"type":"string"}}}' }];
const chat = (content: string, tools: { name: string; parametersJson: string }[] = []): Request => ({
  model: "pocket",
  input: { case: "chat", value: { messages: [{ role: Role.USER, content }], tools } },
  sampling: { temperature: 0 },
});
const story: Request = { ...chat("Tell me a story about a fox."), maxOutputTokens: 200 };
const requests = [
  { name: "greedy", request: story },
  { name: "without a seed", request: { ...story, sampling: { temperature: 1 } }, isDrawn: true },
  { name: "three seeded choices", request: { ...story, sampling: { temperature: 1, seed: 3n }, choiceCount: 3 } },
];
const messages = [{ role: "user", content: "Tell me a story about a fox." }];
const streamed = { model: "pocket", stream: true, stream_options: { include_usage: true }, temperature: 0 };
const bodies = [
  { name: "a chat", path: "/v1/chat/completions", body: { ...streamed, messages, max_tokens: 200 } },
  {
    name: "two choices",
    path: "/v1/chat/completions",
    body: { ...streamed, messages, max_tokens: 200, n: 2, seed: 4 },
  },
  { name: "a completion", path: "/v1/completions", body: { ...streamed, prompt: "Once upon", max_tokens: 200 } },
];
const toolBody = {
  name: "a tool call",
  path: "/v1/chat/completions",
  body: {
    ...streamed,
    messages: [{ role: "user", content: "What is the weather in Oslo?" }],
    tools: [
      { type: "function", function: { name: "get_weather", parameters: { type: "object", properties: { city: {} } } } },
    ],
  },
};
const subjects = [
  { name: "sim", replica: { engine: EngineKind.SIM, engineOptions: { time_scale: "0.3" } }, requests, bodies },
  {
    name: "llama.cpp",
    replica: { engine: EngineKind.LLAMA_CPP, source: "builtin:pocket", parallelSequences: 4 },
    requests: [...requests, { name: "a tool call", request: chat("What is the weather in Oslo?", weather) }],
    bodies: [...bodies, toolBody],
  },
];

/** Where to ask, and as whom. */
interface Router {
  readonly url: string;
  readonly key: string;
}

async function askGrpc(
  { url, key }: Router,
  request: Request,
  headers: object,
  onEvent: (count: number, event: GenerateResponse["event"]) => void = () => {},
) {
  const client = createClient(InferenceService, createGrpcTransport({ baseUrl: url }));
  return readStream(client.generate(request, { headers: { authorization: `Bearer ${key}`, ...headers } }), onEvent);
}

async function readStream(
  stream: AsyncIterable<GenerateResponse>,
  onEvent: (count: number, event: GenerateResponse["event"]) => void = () => {},
) {
  const events: GenerateResponse["event"][] = [];
  try {
    for await (const { event } of stream) {
      events.push(event);
      onEvent(events.length, event);
    }
  } catch (error) {
    return { events, error: ConnectError.from(error) };
  }
  return { events, error: undefined };
}

async function askSse(
  { url, key }: Router,
  { path, body }: { readonly path: string; readonly body: object },
  headers: Record<string, string>,
  onEvent: (count: number) => void = () => {},
) {
  const response = await fetch(`${url}${path}`, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: `Bearer ${key}`, ...headers },
    body: JSON.stringify(body),
  });
  const events: ServerEvent[] = [];
  const decoder = new TextDecoder();
  let rest = "";
  let whole = true;
  try {
    for await (const bytes of response.body ?? []) {
      const parts = (rest + decoder.decode(bytes, { stream: true })).split("\n\n");
      rest = parts.pop() ?? "";
      for (const part of parts) {
        const field = (line: string): string => new RegExp(`^${line}: (.*)$`, "m").exec(part)?.[1] ?? "";
        events.push({ data: field("data"), id: field("id") });
        onEvent(events.length);
      }
    }
  } catch {
    whole = false;
  }
  return { status: response.status, events, whole: whole && events.at(-1)?.data === "[DONE]", rest };
}

async function settled(mesh: TestMesh, callId: string) {
  const records = () => mesh.control.usage.filter((record) => record.callId === callId);
  await mesh.control.until(() => records().length > 0);
  return records();
}

/** Kills a router under a stream, which ends with an error or has come whole already. */
interface Broken<T> {
  readonly events: readonly T[];
  readonly whole: boolean;
}

describe.each(subjects)("a stream whose router is killed, on $name", ({ name, replica, requests, bodies }) => {
  let agents: AgentProcess[] = [];
  /** Its own router is the one that takes streams up. */
  let mesh: TestMesh;
  let doomed: RouterProcess;
  let calls = 0;
  const random = seededRandom(7);

  beforeAll(async () => {
    agents = await Promise.all(
      [1, 2].map((n) =>
        AgentProcess.start({
          nodeId: `node-${n}`,
          replica: { ...replica, replicaId: `replica-${n}`, model: "pocket", deployment: "pocket-deployment" },
        }),
      ),
    );
    mesh = await startTestMesh({ agents: [], outside: agents });
    const keyFile = join(mesh.stateDir, "router-key");
    doomed = await RouterProcess.start({ routerId: "doomed", controlUrl: mesh.control.url, keyFile });
    while (!(await fetch(`${mesh.adminUrl}/readyz`)).ok) await sleep(20);
  });
  afterAll(async () => {
    await doomed.close();
    await mesh.close();
    await Promise.all(agents.map((agent) => agent.close()));
  });

  /** One try each, ever earlier, until the kill was before the end. */
  async function breakAt<T extends Broken<unknown>>(
    at: number,
    ask: (callId: string, kill: (n: number) => void) => Promise<T>,
  ) {
    for (let attempt = 0; ; attempt++) {
      if (calls > 0) await doomed.restart();
      const callId = `call-${name}-${++calls}`;
      const breakAfter = Math.max(1, at - attempt * 3);
      const broken = await ask(callId, (count) => {
        if (count === breakAfter) doomed.kill();
      });
      doomed.kill();
      if (!broken.whole || attempt === 20) return { callId, broken };
    }
  }

  test.each(requests)("goes on at another one over gRPC: $name", async ({ request, ...rest }) => {
    const whole = await askGrpc(mesh, request, {});
    const reference = readAnswer(whole.events);
    for (const at of [1, 2 + Math.floor(random.next() * whole.events.length * 0.5)]) {
      const { callId, broken } = await breakAt(at, async (callId, kill) => {
        const { events, error } = await askGrpc(
          { url: doomed.url, key: mesh.key },
          request,
          { "x-request-id": callId },
          kill,
        );
        return { events, whole: error === undefined };
      });
      const after = String(broken.events.length);
      const headers = { "x-helixmesh-resume": callId, "x-helixmesh-resume-after": after };
      const { events, error } = await askGrpc(mesh, request, headers);
      expect(error).toBeUndefined();
      const answer = readAnswer([...broken.events, ...events]);
      const completionTokens = answer.completionTokens[0];
      expect(answer).toEqual({
        ...reference,
        ...("isDrawn" in rest && { choices: answer.choices, completionTokens: [completionTokens] }),
      });
      const tokens = answer.choices.reduce((sum, { tokenIds }) => sum + tokenIds.length, 0);
      expect(Math.abs((completionTokens ?? 0) - tokens)).toBeLessThanOrEqual(answer.choices.length);
      expect(await settled(mesh, callId)).toMatchObject([
        { outcome: Outcome.COMPLETED, attempts: 1, usage: { completionTokens } },
      ]);
    }
  });

  test.each(bodies)("goes on at another one with Last-Event-ID: $name", async (asked) => {
    const whole = await askSse(mesh, asked, {});
    const reference = readEvents(whole.events);
    expect(reference.last).toBe("[DONE]");
    for (const at of [1, 2 + Math.floor(random.next() * whole.events.length * 0.5)]) {
      const { callId, broken } = await breakAt(at, (callId, kill) =>
        askSse({ url: doomed.url, key: mesh.key }, asked, { "x-request-id": callId }, kill),
      );
      const lastId = broken.events.at(-1)?.id ?? "";
      expect(lastId).toMatch(new RegExp(`^${callId}:[0-9a-z]+:${broken.events.length}$`));
      const resumed = await askSse(mesh, asked, { "last-event-id": lastId });
      expect(resumed).toMatchObject({ status: 200, whole: true });
      const events = [...broken.events, ...resumed.events];
      expect(readEvents(events)).toEqual(reference);
      const heads = events.slice(0, -1).map(({ data }) => JSON.parse(data) as Chunk);
      expect(new Set(heads.map(({ id, created }) => `${id} ${created}`)).size).toBe(1);
      const completionTokens = reference.completionTokens[0];
      expect(await settled(mesh, callId)).toMatchObject([
        { outcome: Outcome.COMPLETED, attempts: 1, usage: { completionTokens } },
      ]);
    }
  });

  test("goes on at another one over Connect", async () => {
    const whole = await askGrpc(mesh, story, {});
    const { callId, broken } = await breakAt(5, async (callId, kill) => {
      const { events, error } = await askGrpc(
        { url: doomed.url, key: mesh.key },
        story,
        { "x-request-id": callId },
        kill,
      );
      return { events, whole: error === undefined };
    });
    const client = createClient(InferenceService, createConnectTransport({ baseUrl: mesh.url, httpVersion: "1.1" }));
    const after = String(broken.events.length);
    const headers = {
      authorization: `Bearer ${mesh.key}`,
      "x-helixmesh-resume": callId,
      "x-helixmesh-resume-after": after,
    };
    const { events } = await readStream(client.generate(story, { headers }));
    expect(readAnswer([...broken.events, ...events])).toEqual(readAnswer(whole.events));
  });

  test("is nobody else's, and goes on only with its own request", async () => {
    const { callId } = await breakAt(3, async (callId, kill) => {
      const { events, error } = await askGrpc(
        { url: doomed.url, key: mesh.key },
        story,
        { "x-request-id": callId },
        kill,
      );
      return { events, whole: error === undefined };
    });
    const headers = { "x-helixmesh-resume": callId };
    const [other, stranger] = await Promise.all([
      askGrpc(mesh, chat("Something else."), headers),
      askGrpc({ url: mesh.url, key: mesh.otherKey }, story, headers),
    ]);
    expect(other.error?.code).toBe(Code.InvalidArgument);
    expect(other.error?.message).toContain("x-helixmesh-resume");
    expect(stranger.error?.code).toBe(Code.NotFound);
    const own = await askGrpc(mesh, story, headers);
    expect(own.error).toBeUndefined();
    const again = await askGrpc(mesh, story, headers);
    expect(again.error?.code).toBe(Code.NotFound);
    expect(again.error?.message).toContain("Send the request without it");
  });
});

test("a stream goes on at the same address where another worker has it", async () => {
  const engine = { engine: EngineKind.SIM, engineOptions: { output_tokens: "100" } };
  const desired = { ...engine, replicaId: "replica-1", model: "pocket", deployment: "pocket-deployment" };
  const agent = await AgentProcess.start({ nodeId: "node-1", replica: desired });
  const mesh = await startTestMesh({ agents: [], outside: [agent] });
  const keyFile = join(mesh.stateDir, "router-key");
  const flags = ["--workers=2"];
  const many = await RouterProcess.start({ routerId: "many", controlUrl: mesh.control.url, keyFile, flags });
  try {
    const { key } = mesh;
    const request: Request = { ...story, maxOutputTokens: 100 };
    const whole = readAnswer((await askGrpc({ url: many.url, key }, request, {})).events);
    // All have begun when one of the two workers dies.
    const begun = new Set<string>();
    const kill = (callId: string): void => {
      begun.add(callId);
      if (begun.size === 6) process.kill(many.busiestWorker(), "SIGKILL");
    };
    // A connection each: the worker that takes it has the stream.
    const streams = Array.from({ length: 6 }, async (_, index) => {
      const callId = `call-${index}`;
      const heard = (count: number): void => (count === 3 ? kill(callId) : undefined);
      const first = await askGrpc({ url: many.url, key }, request, { "x-request-id": callId }, heard);
      if (!first.error) return { callId, events: first.events, broken: 0 };
      const headers = { "x-helixmesh-resume": callId, "x-helixmesh-resume-after": String(first.events.length) };
      const rest = await askGrpc({ url: many.url, key }, request, headers);
      expect(rest.error).toBeUndefined();
      return { callId, events: [...first.events, ...rest.events], broken: 1 };
    });
    const all = await Promise.all(streams);
    const usage = { completionTokens: 100 };
    for (const { callId, events } of all) {
      expect(readAnswer(events)).toEqual(whole);
      expect(await settled(mesh, callId)).toMatchObject([{ outcome: Outcome.COMPLETED, attempts: 1, usage }]);
    }
    const broken = all.reduce((sum, one) => sum + one.broken, 0);
    expect(broken).toBeGreaterThan(0);
    expect(await many.metrics()).toMatch(
      new RegExp(`router_resumes_total\\{[^}]*outcome="resumed"[^}]*\\} ${broken}\n`),
    );
  } finally {
    await many.close();
    await mesh.close();
    await agent.close();
  }
});

test("a stream goes on whose node dies, and then its router", async () => {
  const engine = { engine: EngineKind.SIM, engineOptions: { time_scale: "0.5" } };
  const desired = { ...engine, model: "pocket", deployment: "pocket-deployment" };
  const agents = await Promise.all(
    [1, 2].map((n) => AgentProcess.start({ nodeId: `node-${n}`, replica: { ...desired, replicaId: `replica-${n}` } })),
  );
  const mesh = await startTestMesh({ agents: [], outside: agents });
  const keyFile = join(mesh.stateDir, "router-key");
  const doomed = await RouterProcess.start({ routerId: "doomed", controlUrl: mesh.control.url, keyFile });
  try {
    const request: Request = { ...story, sampling: { temperature: 1, seed: 5n } };
    const whole = readAnswer((await askGrpc(mesh, request, {})).events);
    let nodeId = "";
    const started = (event: GenerateResponse["event"]): void => {
      if (event.case === "started") nodeId = event.value.nodeId;
    };
    const first = await askGrpc(
      { url: doomed.url, key: mesh.key },
      request,
      { "x-request-id": "both" },
      (count, event) => {
        started(event);
        if (count === 20) agents.find((agent) => agent.nodeId === nodeId)?.kill();
        // What the killed node had sent is behind by then.
        if (count === 120) doomed.kill();
      },
    );
    expect(first.error).toBeDefined();
    const headers = { "x-helixmesh-resume": "both", "x-helixmesh-resume-after": String(first.events.length) };
    const rest = await askGrpc(mesh, request, headers);
    expect(rest.error).toBeUndefined();
    expect(readAnswer([...first.events, ...rest.events])).toEqual(whole);
    const usage = { completionTokens: 200 };
    expect(await settled(mesh, "both")).toMatchObject([{ outcome: Outcome.COMPLETED, attempts: 2, usage }]);
  } finally {
    await doomed.close();
    await mesh.close();
    await Promise.all(agents.map((agent) => agent.close()));
  }
});

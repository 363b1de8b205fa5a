import { Code } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type GenerateResponse, Role } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { EngineKind, Outcome } from "#gen/helixmesh/type/v1/type_pb.ts";
import { seededRandom } from "#kernel/random.ts";
import {
  type BrokenBed,
  type Request,
  type ServerEvent,
  askGrpc,
  askSse,
  resumeHeaders,
  settled,
  startBrokenBed,
} from "./broken-streams.ts";
import { readAnswer } from "./read-answer.ts";

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

/** What is broken off of a stream. */
interface Broken {
  readonly whole: boolean;
}

describe.each(subjects)("a stream whose router is killed, on $name", ({ name, replica, requests, bodies }) => {
  let bed: BrokenBed;
  let calls = 0;
  const random = seededRandom(7);

  beforeAll(async () => {
    bed = await startBrokenBed({ replica, nodes: 2 });
  });
  afterAll(() => bed.close());

  const client = () => ({ url: bed.mesh.url, key: bed.mesh.key });

  /** One try each, ever earlier, until the kill was before the end. */
  async function breakAt<T extends Broken>(
    at: number,
    ask: (
      from: { url: string; key: string; headers: { "x-request-id": string } },
      kill: (n: number) => void,
    ) => Promise<T>,
  ) {
    const { doomed, mesh } = bed;
    for (let attempt = 0; ; attempt++) {
      if (calls > 0) await doomed.restart();
      const callId = `call-${name}-${++calls}`;
      const breakAfter = Math.max(1, at - attempt * 3);
      const broken = await ask({ url: doomed.url, key: mesh.key, headers: { "x-request-id": callId } }, (count) => {
        if (count === breakAfter) doomed.kill();
      });
      doomed.kill();
      if (!broken.whole || attempt === 20) return { callId, broken };
    }
  }

  test.each(requests)("goes on at another one over gRPC: $name", async ({ request, ...rest }) => {
    const whole = await askGrpc(client(), request);
    const reference = readAnswer(whole.events);
    for (const at of [1, 2 + Math.floor(random.next() * whole.events.length * 0.5)]) {
      const { callId, broken } = await breakAt(at, (from, kill) => askGrpc(from, request, kill));
      const { events, error } = await askGrpc({ ...client(), headers: resumeHeaders(callId, broken.events) }, request);
      expect(error).toBeUndefined();
      const answer = readAnswer([...broken.events, ...events]);
      const completionTokens = answer.completionTokens[0];
      expect(answer).toEqual({
        ...reference,
        ...("isDrawn" in rest && { choices: answer.choices, completionTokens: [completionTokens] }),
      });
      const tokens = answer.choices.reduce((sum, { tokenIds }) => sum + tokenIds.length, 0);
      expect(Math.abs((completionTokens ?? 0) - tokens)).toBeLessThanOrEqual(answer.choices.length);
      expect(await settled(bed.mesh, callId)).toMatchObject([
        { outcome: Outcome.COMPLETED, attempts: 1, usage: { completionTokens } },
      ]);
    }
  });

  test.each(bodies)("goes on at another one with Last-Event-ID: $name", async (asked) => {
    const whole = await askSse(client(), asked);
    const reference = readEvents(whole.events);
    expect(reference.last).toBe("[DONE]");
    for (const at of [1, 2 + Math.floor(random.next() * whole.events.length * 0.5)]) {
      const { callId, broken } = await breakAt(at, (from, kill) => askSse(from, asked, kill));
      const lastId = broken.events.at(-1)?.id ?? "";
      expect(lastId).toMatch(new RegExp(`^${callId}:[0-9a-z]+:${broken.events.length}$`));
      const resumed = await askSse({ ...client(), headers: { "last-event-id": lastId } }, asked);
      expect(resumed).toMatchObject({ status: 200, whole: true });
      const events = [...broken.events, ...resumed.events];
      expect(readEvents(events)).toEqual(reference);
      const heads = events.slice(0, -1).map(({ data }) => JSON.parse(data) as Chunk);
      expect(new Set(heads.map(({ id, created }) => `${id} ${created}`)).size).toBe(1);
      const completionTokens = reference.completionTokens[0];
      expect(await settled(bed.mesh, callId)).toMatchObject([
        { outcome: Outcome.COMPLETED, attempts: 1, usage: { completionTokens } },
      ]);
    }
  });

  test("goes on at another one over Connect", async () => {
    const whole = await askGrpc(client(), story);
    const { callId, broken } = await breakAt(5, (from, kill) => askGrpc(from, story, kill));
    const transport = createConnectTransport({ baseUrl: bed.mesh.url, httpVersion: "1.1" });
    const headers = resumeHeaders(callId, broken.events);
    const { events } = await askGrpc({ ...client(), headers, transport }, story);
    expect(readAnswer([...broken.events, ...events])).toEqual(readAnswer(whole.events));
  });

  test("is nobody else's, and goes on only with its own request", async () => {
    const { callId } = await breakAt(3, (from, kill) => askGrpc(from, story, kill));
    const own = { ...client(), headers: resumeHeaders(callId, []) };
    const [other, stranger] = await Promise.all([
      askGrpc(own, chat("Something else.")),
      askGrpc({ ...own, key: bed.mesh.otherKey }, story),
    ]);
    expect(other.error?.code).toBe(Code.InvalidArgument);
    expect(other.error?.message).toContain("x-helixmesh-resume");
    expect(stranger.error?.code).toBe(Code.NotFound);
    expect((await askGrpc(own, story)).error).toBeUndefined();
    const again = await askGrpc(own, story);
    expect(again.error?.code).toBe(Code.NotFound);
    expect(again.error?.message).toContain("Send the request without it");
  });
});

const sim = (engineOptions: Record<string, string>) => ({ engine: EngineKind.SIM, engineOptions });

test("a stream goes on at the same address where another worker has it", async () => {
  const bed = await startBrokenBed({ replica: sim({ output_tokens: "100" }), nodes: 1, routerFlags: ["--workers=2"] });
  const { doomed, mesh } = bed;
  try {
    const client = { url: doomed.url, key: mesh.key };
    const request: Request = { ...story, maxOutputTokens: 100 };
    const whole = readAnswer((await askGrpc(client, request)).events);
    // All have begun when one of the two workers dies.
    const begun = new Set<string>();
    const kill = (callId: string): void => {
      begun.add(callId);
      if (begun.size === 6) process.kill(doomed.busiestWorker(), "SIGKILL");
    };
    // A connection each: the worker that takes it has the stream.
    const streams = Array.from({ length: 6 }, async (_, index) => {
      const callId = `call-${index}`;
      const heard = (count: number): void => (count === 3 ? kill(callId) : undefined);
      const first = await askGrpc({ ...client, headers: { "x-request-id": callId } }, request, heard);
      if (!first.error) return { callId, events: first.events, broken: 0 };
      const rest = await askGrpc({ ...client, headers: resumeHeaders(callId, first.events) }, request);
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
    expect(await doomed.metrics()).toMatch(
      new RegExp(`router_resumes_total\\{[^}]*outcome="resumed"[^}]*\\} ${broken}\n`),
    );
  } finally {
    await bed.close();
  }
});

test("a stream goes on whose node dies, and then its router", async () => {
  const bed = await startBrokenBed({ replica: sim({ time_scale: "0.5" }), nodes: 2 });
  const { agents, doomed, mesh } = bed;
  try {
    const request: Request = { ...story, sampling: { temperature: 1, seed: 5n } };
    const whole = readAnswer((await askGrpc(mesh, request)).events);
    let nodeId = "";
    const hurt = (count: number, event: GenerateResponse["event"]): void => {
      if (event.case === "started") nodeId = event.value.nodeId;
      if (count === 20) agents.find((agent) => agent.nodeId === nodeId)?.kill();
      // What the killed node had sent is behind by then.
      if (count === 120) doomed.kill();
    };
    const from = { url: doomed.url, key: mesh.key, headers: { "x-request-id": "both" } };
    const first = await askGrpc(from, request, hurt);
    expect(first.error).toBeDefined();
    const rest = await askGrpc({ ...from, url: mesh.url, headers: resumeHeaders("both", first.events) }, request);
    expect(rest.error).toBeUndefined();
    expect(readAnswer([...first.events, ...rest.events])).toEqual(whole);
    const usage = { completionTokens: 200 };
    expect(await settled(mesh, "both")).toMatchObject([{ outcome: Outcome.COMPLETED, attempts: 2, usage }]);
  } finally {
    await bed.close();
  }
});

describe("a stream whose router's host vanishes", () => {
  let bed: BrokenBed;
  beforeAll(async () => {
    // Time enough for a client to be back before a node misses its router, whatever else this machine does.
    bed = await startBrokenBed({ replica: sim({ time_scale: "1" }), nodes: 2, agentFlags: ["--link-heartbeat=2s"] });
  });
  afterAll(() => bed.close());

  const from = (callId: string, signal: AbortSignal) => {
    const { doomed, mesh } = bed;
    return { url: doomed.url, key: mesh.key, headers: { "x-request-id": callId }, signal };
  };
  /** The client gives the router up as soon as it is gone; none of its words arrives there. */
  const vanishAt = (at: number, gone: AbortController) => (count: number) => {
    if (count !== at) return;
    bed.doomed.pause();
    gone.abort();
  };
  /** The router has found out that a call of this door has gone elsewhere. */
  async function back(door: string): Promise<void> {
    bed.doomed.unpause();
    const told = new RegExp(`router_calls_total\\{door="${door}",[^}]*reason="resumed_elsewhere"[^}]*\\} 1\n`);
    await expect.poll(() => bed.doomed.metrics(), { timeout: 30_000 }).toMatch(told);
  }
  const completed = { outcome: Outcome.COMPLETED, attempts: 1, usage: { completionTokens: 200 } };

  test("goes on at another one at once, over gRPC, and is not the first one's when that is back", async () => {
    const { mesh, doomed } = bed;
    const whole = readAnswer((await askGrpc(mesh, story)).events);
    const gone = new AbortController();
    const first = await askGrpc(from("grpc", gone.signal), story, vanishAt(20, gone));
    expect(first.whole).toBe(false);
    const { key } = mesh;
    const [rest, stranger] = await Promise.all([
      askGrpc({ url: mesh.url, key, headers: resumeHeaders("grpc", first.events) }, story),
      askGrpc({ url: mesh.url, key: mesh.otherKey, headers: resumeHeaders("grpc", first.events) }, story),
    ]);
    expect(rest.error).toBeUndefined();
    expect(stranger.error?.code).toBe(Code.NotFound);
    expect(readAnswer([...first.events, ...rest.events])).toEqual(whole);
    expect(await settled(mesh, "grpc")).toMatchObject([completed]);
    await back("grpc");
    const after = await askGrpc({ url: doomed.url, key, headers: { "x-request-id": "after" } }, story);
    expect(readAnswer(after.events)).toEqual(whole);
    // Its records come in order: what it might have said of the first call would be here.
    await settled(mesh, "after");
    expect(mesh.control.reports.filter(({ callId }) => callId === "grpc")).toMatchObject([completed]);
  });

  test("goes on at another one at once, with Last-Event-ID", async () => {
    const { mesh } = bed;
    const asked = { path: "/v1/chat/completions", body: { ...streamed, messages, max_tokens: 200 } };
    const reference = readEvents((await askSse(mesh, asked)).events);
    const gone = new AbortController();
    const first = await askSse(from("sse", gone.signal), asked, vanishAt(20, gone));
    expect(first.whole).toBe(false);
    const headers = { "last-event-id": first.events.at(-1)?.id ?? "" };
    const rest = await askSse({ url: mesh.url, key: mesh.key, headers }, asked);
    expect(readEvents([...first.events, ...rest.events])).toEqual(reference);
    expect(await settled(mesh, "sse")).toMatchObject([completed]);
    await back("openai-chat");
  });

  test("goes on at another one while the first lives, whose client is told so", async () => {
    const { mesh, doomed } = bed;
    const whole = readAnswer((await askGrpc(mesh, story)).events);
    let second: ReturnType<typeof askGrpc> | undefined;
    const client = { url: doomed.url, key: mesh.key, headers: { "x-request-id": "both-live" } };
    const first = await askGrpc(client, story, (count) => {
      if (count === 20) second = askGrpc({ ...client, url: mesh.url, headers: resumeHeaders("both-live", []) }, story);
    });
    expect(first.error?.code).toBe(Code.Aborted);
    expect(readAnswer((await second)?.events ?? [])).toEqual(whole);
    expect(await settled(mesh, "both-live")).toMatchObject([completed]);
  });

  test("goes on at another one after its node has missed the first, which is billed nothing twice when it is back", async () => {
    const { mesh } = bed;
    const whole = readAnswer((await askGrpc(mesh, story)).events);
    const gone = new AbortController();
    const first = await askGrpc(from("late", gone.signal), story, vanishAt(20, gone));
    await expect.poll(() => mesh.metrics(), { timeout: 30_000 }).toMatch(/router_resumable_calls\{[^}]*\} 1\n/);
    const rest = await askGrpc({ ...mesh, headers: resumeHeaders("late", first.events) }, story);
    expect(readAnswer([...first.events, ...rest.events])).toEqual(whole);
    expect(await settled(mesh, "late")).toMatchObject([completed]);
    bed.doomed.unpause();
    // It knows nothing of the other one and says what it saw.
    await mesh.control.until(() => mesh.control.reports.filter(({ callId }) => callId === "late").length === 2);
    expect(await settled(mesh, "late")).toMatchObject([completed]);
  });
});

import OpenAI from "openai";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { create } from "@bufbuild/protobuf";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { FinishReason, ModelInfoSchema } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { type DoorServer, startDoorServer, testKey } from "./door-server.ts";
import type { GenerateScript, ScriptedEvent } from "./scripted-calls.ts";

let server: DoorServer;
let client: OpenAI;

beforeAll(async () => {
  server = await startDoorServer();
  client = new OpenAI({ apiKey: testKey, baseURL: `${server.url}/v1`, maxRetries: 0 });
});
afterAll(() => server.close());
beforeEach(() => {
  server.calls.generateScript = speak;
  server.calls.generated.length = 0;
  server.calls.contexts.length = 0;
});

const usage = { promptTokens: 4, cachedTokens: 1, completionTokens: 2 };

/** Says "Hello, wörld 🙂 i" for choice i, a piece at a time. */
const speak: GenerateScript = async function* (request) {
  yield { case: "started", value: { model: "pocket", promptTokens: 4, cachedTokens: 1 } };
  for (const text of ["Hello, ", "", "wörld 🙂 "]) {
    for (let choiceIndex = 0; choiceIndex < request.choiceCount; choiceIndex++) {
      yield { case: "delta", value: { choiceIndex, text, tokenIds: [1] } };
    }
    await new Promise(setImmediate);
  }
  for (let choiceIndex = 0; choiceIndex < request.choiceCount; choiceIndex++) {
    yield { case: "delta", value: { choiceIndex, text: String(choiceIndex), finishReason: FinishReason.STOP } };
  }
  yield { case: "finished", value: { usage } };
};

function failAfter(events: readonly ScriptedEvent[], error: Error): GenerateScript {
  return async function* () {
    yield* events;
    await new Promise(setImmediate);
    throw error;
  };
}

const refuseToken70000: GenerateScript = async function* (request, context) {
  const { input } = request;
  const at = input.case === "tokens" ? input.value.ids.indexOf(70_000) : -1;
  if (at < 0) return yield* speak(request, context);
  const field = `tokens.ids[${at}]`;
  throw new MeshError(Reason.INVALID_REQUEST, `${field} is 70000, which the model does not have.`, { field });
};

function post(path: string, body: string, headers: Record<string, string> = {}): Promise<Response> {
  const all = { "content-type": "application/json", authorization: `Bearer ${testKey}`, ...headers };
  return fetch(`${server.url}${path}`, { method: "POST", headers: all, body });
}

const chat = { model: "m", messages: [{ role: "user" as const, content: "Hi" }] };

async function collect<T>(source: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const value of source) all.push(value);
  return all;
}

describe("chat completions with the official client", () => {
  test("answer whole", async () => {
    const { data, request_id } = await client.chat.completions.create({ ...chat, n: 2 }).withResponse();
    expect(data.choices.map((choice) => choice.message.content)).toEqual(["Hello, wörld 🙂 0", "Hello, wörld 🙂 1"]);
    expect(data.model).toBe("pocket");
    expect(data.id).toBe(`chatcmpl-${request_id}`);
    expect(data.usage).toMatchObject({ total_tokens: 6, prompt_tokens_details: { cached_tokens: 1 } });
  });

  test("stream the same text, choice by choice, and usage", async () => {
    const stream = await client.chat.completions.create({
      ...chat,
      n: 2,
      stream: true,
      stream_options: { include_usage: true },
    });
    const texts = ["", ""];
    const reasons: unknown[] = [];
    let last: OpenAI.ChatCompletionChunk | undefined;
    for await (const chunk of stream) {
      last = chunk;
      for (const choice of chunk.choices) {
        texts[choice.index] += choice.delta.content ?? "";
        reasons[choice.index] = choice.finish_reason;
      }
    }
    expect(texts).toEqual(["Hello, wörld 🙂 0", "Hello, wörld 🙂 1"]);
    expect(reasons).toEqual(["stop", "stop"]);
    expect(last).toMatchObject({ choices: [], usage: { prompt_tokens: 4, completion_tokens: 2, total_tokens: 6 } });
  });

  test("are gathered by the client's own stream runner, tool calls included", async () => {
    server.calls.generateScript = async function* () {
      yield { case: "started", value: { model: "pocket" } };
      yield { case: "delta", value: { toolCalls: [{ index: 0, id: "call_a", name: "weather" }] } };
      yield { case: "delta", value: { toolCalls: [{ index: 0, argumentsJson: '{"city":' }] } };
      yield {
        case: "delta",
        value: { toolCalls: [{ index: 0, argumentsJson: '"Tokyo"}' }], finishReason: FinishReason.TOOL_CALLS },
      };
      yield { case: "finished", value: { usage } };
    };
    const tools = [{ type: "function", function: { name: "weather", parameters: { type: "object" } } }] as const;
    const whole = await client.chat.completions.create({ ...chat, tools: [...tools] });
    const streamed = await client.chat.completions.stream({ ...chat, tools: [...tools] }).finalChatCompletion();
    const call = { id: "call_a", type: "function", function: { name: "weather", arguments: '{"city":"Tokyo"}' } };
    expect(whole.choices[0]).toMatchObject({
      finish_reason: "tool_calls",
      message: { content: null, tool_calls: [call] },
    });
    expect(streamed.choices[0]).toMatchObject({ finish_reason: "tool_calls", message: { tool_calls: [call] } });
  });

  test("tell the core who calls and under which id", async () => {
    const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    await client.chat.completions.create(chat, { headers: { "x-request-id": "mine-1", traceparent } });
    expect(server.calls.contexts[0]).toMatchObject({
      callId: "mine-1",
      door: "openai-chat",
      principal: { keyId: "k", projectId: "p" },
      traceparent,
    });
  });

  test("give the core as much time as their caller gives them", async () => {
    await client.chat.completions.create(chat, { headers: { "x-helixmesh-timeout-ms": "2500" } });
    await client.chat.completions.create(chat);
    expect(server.calls.contexts.map(({ timeoutMs }) => timeoutMs)).toEqual([expect.closeTo(2_500, -2), undefined]);
    const response = await post("/v1/chat/completions", JSON.stringify(chat), { "x-helixmesh-timeout-ms": "2.5" });
    expect(response.status).toBe(400);
    expect(await response.json()).toMatchObject({
      error: { param: "x-helixmesh-timeout-ms", message: expect.stringContaining('"2.5"; it must be up to 10 digits') },
    });
  });

  test("have events with ids, behind any of which a client goes on that sends it back", async () => {
    const body = JSON.stringify({ ...chat, n: 2, stream: true, stream_options: { include_usage: true } });
    const read = async (headers: Record<string, string>) => {
      const response = await post("/v1/chat/completions", body, headers);
      return { id: response.headers.get("x-request-id"), events: (await response.text()).split("\n\n") };
    };
    const whole = await read({ "x-request-id": "mine: it" });
    // The last two are [DONE] and what is behind it.
    const ids = whole.events.slice(0, -2).map((event) => /\nid: (.*)$/.exec(event)?.[1] ?? "");
    expect(ids.map((id) => id.replace(/:[0-9a-z]+:/, " "))).toEqual(ids.map((_, index) => `mine: it ${index + 1}`));
    for (const [index, id] of ids.entries()) {
      const rest = await read({ "last-event-id": id });
      expect(rest).toEqual({ id: "mine: it", events: whole.events.slice(index + 1) });
    }
    expect(server.calls.contexts.map(({ callId, resumes }) => [callId, resumes])).toEqual([
      ["mine: it", false],
      ...ids.map(() => ["mine: it", true]),
    ]);
  });

  test.each([
    ["an id that is none of ours", "/v1/chat/completions", { ...chat, stream: true }, "42"],
    ["an answer that is whole", "/v1/chat/completions", chat, "call:x:1"],
    ["two prompts", "/v1/completions", { model: "m", prompt: ["a", "b"], stream: true }, "call:x:1"],
  ])("cannot be resumed with %s", async (_what, path, body, lastEventId) => {
    const response = await post(path, JSON.stringify(body), { "last-event-id": lastEventId });
    expect(response.status).toBe(400);
    expect(await response.json()).toMatchObject({ error: { param: "last-event-id", code: "invalid_request" } });
    expect(server.calls.generated).toEqual([]);
  });

  test("have a failure's own status when it comes before the first text", async () => {
    const started: ScriptedEvent = { case: "started", value: { model: "pocket" } };
    const error = new MeshError(Reason.OVERLOADED, "No room now.", { retryAfterMs: 2_000 });
    server.calls.generateScript = failAfter([started], error);
    const request = client.chat.completions.create({ ...chat, stream: true });
    await expect(request).rejects.toMatchObject({ status: 503, code: "overloaded", type: "server_error" });
    const response = await post("/v1/chat/completions", JSON.stringify({ ...chat, stream: true }));
    expect(response.headers.get("retry-after")).toBe("2");
    await response.body?.cancel();
  });

  test("end a stream that fails midway with one error event and no [DONE]", async () => {
    const events: ScriptedEvent[] = [
      { case: "started", value: { model: "pocket" } },
      { case: "delta", value: { text: "Hel" } },
    ];
    server.calls.generateScript = failAfter(events, new MeshError(Reason.NODE_LOST, "The node was lost."));
    const response = await post("/v1/chat/completions", JSON.stringify({ ...chat, stream: true }));
    const lines = (await response.text()).split("\n\n");
    expect(response.status).toBe(200);
    expect(JSON.parse(lines.at(-2)?.slice("data: ".length) ?? "")).toEqual({
      error: { message: "The node was lost.", type: "server_error", param: null, code: "node_lost" },
    });
    expect(lines.join()).not.toContain("[DONE]");
    const stream = await client.chat.completions.create({ ...chat, stream: true });
    await expect(collect(stream)).rejects.toThrow("The node was lost.");
  });

  test("that end without a result are an internal error", async () => {
    server.calls.generateScript = failAfter([], new Error("secret detail"));
    const failed = client.chat.completions.create(chat);
    await expect(failed).rejects.toMatchObject({ status: 500, code: "internal_error" });
    await expect(failed).rejects.not.toThrow("secret");
    server.calls.generateScript = async function* () {};
    await expect(client.chat.completions.create(chat)).rejects.toMatchObject({ status: 500 });
  });

  test("write all events of one turn at once", async () => {
    server.calls.generateScript = async function* () {
      yield { case: "started", value: { model: "pocket" } };
      for (let i = 0; i < 50; i++) yield { case: "delta", value: { text: "x" } };
      yield { case: "finished", value: { usage } };
    };
    const response = await post("/v1/chat/completions", JSON.stringify({ ...chat, stream: true }));
    if (!response.body) throw new Error("no body");
    const reads = await collect<Uint8Array>(response.body);
    expect(Buffer.concat(reads).toString().split("\n\n")).toHaveLength(53);
    expect(reads.length).toBeLessThanOrEqual(2);
  });

  test("stop when the client goes away", async () => {
    const aborted = Promise.withResolvers<void>();
    server.calls.generateScript = async function* (_request, { signal }) {
      signal.addEventListener("abort", () => aborted.resolve());
      yield { case: "delta", value: { text: "x" } };
      await aborted.promise;
      throw new MeshError(Reason.CANCELLED, "The caller went away.");
    };
    const stream = await client.chat.completions.create({ ...chat, stream: true });
    for await (const _chunk of stream) break;
    await aborted.promise;
  });
});

describe("completions with the official client", () => {
  test("answer several prompts with several choices, whole and streamed", async () => {
    const request = { model: "m", prompt: ["a", "b", "c"], n: 2 };
    const whole = await client.completions.create(request);
    const texts = whole.choices.map(() => "");
    for await (const chunk of await client.completions.create({ ...request, stream: true })) {
      for (const choice of chunk.choices) texts[choice.index] += choice.text;
    }
    expect(whole.choices.map(({ text }) => text)).toEqual(texts);
    expect(texts).toEqual([0, 1, 0, 1, 0, 1].map((choice) => `Hello, wörld 🙂 ${choice}`));
    expect(whole.usage).toMatchObject({ prompt_tokens: 12, completion_tokens: 6 });
  });

  test("have one limit of time for all prompts, those included that begin when others have ended", async () => {
    server.calls.generateScript = async function* (request, context) {
      await new Promise((resolve) => setTimeout(resolve, 25));
      yield* speak(request, context);
    };
    const prompt = Array.from({ length: 17 }, (_, i) => String(i));
    const headers = { "x-helixmesh-timeout-ms": "5000" };
    await client.completions.create({ model: "m", prompt }, { headers });
    const [first = 0, ...others] = server.calls.contexts.map(({ timeoutMs }) => timeoutMs ?? 0);
    expect(first).toBeLessThanOrEqual(5_000);
    expect(others.at(-1)).toBeLessThanOrEqual(first - 20);
  });

  test("give every prompt a call id of its own", async () => {
    const headers = { "x-request-id": "mine" };
    await client.completions.create({ model: "m", prompt: ["a", "b"] }, { headers });
    expect(server.calls.contexts.map(({ callId }) => callId)).toEqual(["mine", "mine.1"]);
    await client.completions.create(
      { model: "m", prompt: ["a", "b"] },
      { headers: { "x-request-id": "x".repeat(128) } },
    );
    expect(server.calls.contexts[3]?.callId).toMatch(/^call_\d+$/);
  });

  test("end the other prompts when one fails", async () => {
    const aborted = Promise.withResolvers<void>();
    server.calls.generateScript = async function* ({ input }, { signal }) {
      if (input.value === "bad") throw new MeshError(Reason.CONTEXT_LENGTH_EXCEEDED, "Too long.", { field: "prompt" });
      signal.addEventListener("abort", () => aborted.resolve());
      yield { case: "started", value: { model: "pocket" } };
      await aborted.promise;
      throw new MeshError(Reason.CANCELLED, "The caller went away.");
    };
    const request = client.completions.create({ model: "m", prompt: ["good", "bad"] });
    await expect(request).rejects.toMatchObject({ status: 400, code: "context_length_exceeded", param: "prompt[1]" });
    await aborted.promise;
  });

  test.each([
    [[1, 70_000], "prompt[1]"],
    [[[1], [1, 70_000]], "prompt[1][1]"],
    [[[1, 70_000]], "prompt[0][1]"],
  ])("say which of the token ids in %j the engine does not have", async (prompt, param) => {
    server.calls.generateScript = refuseToken70000;
    const request = client.completions.create({ model: "m", prompt });
    await expect(request).rejects.toMatchObject({
      status: 400,
      param,
      message: expect.stringContaining(param) as unknown,
    });
  });
});

describe("embeddings with the official client", () => {
  test.each(["float", "base64", undefined] as const)("decode from %s", async (encoding_format) => {
    server.calls.embedScript = ({ inputs }) => ({
      model: "pocket",
      embeddings: inputs.map((_, i) => ({ values: [i, 0.5] })),
      usage: { promptTokens: 9 },
    });
    const encoding = encoding_format === undefined ? {} : { encoding_format };
    const { data, usage } = await client.embeddings.create({ model: "m", input: ["a", "b"], ...encoding });
    const embeddings = data.map(({ embedding }) => embedding);
    const decoded = encoding_format === "base64" ? [decode(embeddings[0]), decode(embeddings[1])] : embeddings;
    expect(decoded).toEqual([
      [0, 0.5],
      [1, 0.5],
    ]);
    expect(usage).toEqual({ prompt_tokens: 9, total_tokens: 9 });
  });

  function decode(embedding: unknown): number[] {
    const bytes = Buffer.from(String(embedding), "base64");
    return [bytes.readFloatLE(0), bytes.readFloatLE(4)];
  }
});

describe("models with the official client", () => {
  test("are listed and found, ids with slashes too", async () => {
    server.calls.models = [create(ModelInfoSchema, { id: "org/pocket", created: 3n })];
    const shown = { id: "org/pocket", object: "model", created: 3, owned_by: "helixmesh" };
    expect((await client.models.list()).data).toEqual([shown]);
    expect(await client.models.retrieve("org/pocket")).toEqual(shown);
    await expect(client.models.retrieve("nope")).rejects.toMatchObject({
      status: 404,
      code: "model_not_found",
      param: "model",
    });
  });
});

describe("every answer", () => {
  const cases: readonly (readonly [string, number, () => Promise<Response>, object])[] = [
    ["an unknown route", 404, () => post("/v1/nope", "{}"), { code: "route_not_found" }],
    ["the root", 404, () => fetch(server.url), { code: "route_not_found" }],
    ["a wrong method", 405, () => fetch(`${server.url}/v1/chat/completions`), { code: "method_not_allowed" }],
    ["a missing key", 401, () => post("/v1/completions", "{}", { authorization: "" }), { code: "invalid_api_key" }],
    [
      "a form",
      415,
      () => post("/v1/completions", "a=b", { "content-type": "application/x-www-form-urlencoded" }),
      { code: "unsupported_media_type" },
    ],
    [
      "compression",
      415,
      () => post("/v1/completions", "{}", { "content-encoding": "gzip" }),
      { code: "unsupported_media_type" },
    ],
    ["malformed JSON", 400, () => post("/v1/chat/completions", '{"model": }'), { code: "invalid_request" }],
    [
      "a wrong type",
      400,
      () => post("/v1/chat/completions", '{"model": 1}'),
      { code: "invalid_request", param: "model" },
    ],
    [
      "an unknown parameter",
      400,
      () => post("/v1/embeddings", '{"model":"m","input":"a","x":1}'),
      { code: "unsupported_parameter", param: "x" },
    ],
    ["a body too large", 413, () => post("/v1/embeddings", `"${"x".repeat(100_000)}"`), { code: "request_too_large" }],
  ];

  test.each(cases)("to %s has status %i, an error body and a request id", async (_name, status, send, error) => {
    const response = await send();
    expect(response.status).toBe(status);
    expect(response.headers.get("x-request-id")).toMatch(/^call_\d+$/);
    expect(response.headers.get("content-type")).toBe("application/json");
    expect(await response.json()).toMatchObject({ error: { ...error, type: "invalid_request_error" } });
  });

  test("says what is allowed and what is asked for", async () => {
    const method = await fetch(`${server.url}/v1/models`, { method: "DELETE" });
    expect(method.headers.get("allow")).toBe("GET, HEAD");
    const key = await fetch(`${server.url}/v1/models`);
    expect(key.headers.get("www-authenticate")).toContain("Bearer");
  });

  test("names the position of malformed JSON", async () => {
    const response = await post("/v1/chat/completions", '{"model": }');
    expect(await response.text()).toContain("line 1 column 11");
  });

  test("repeats the caller's request id only if it is 1 to 128 printable characters", async () => {
    const idOf = async (id: string): Promise<string | null> =>
      (await fetch(`${server.url}/nope`, { headers: { "x-request-id": id } })).headers.get("x-request-id");
    expect(await idOf("mine")).toBe("mine");
    expect(await idOf("x".repeat(128))).toBe("x".repeat(128));
    expect(await idOf("x".repeat(129))).toMatch(/^call_/);
    expect(await idOf("a\tb")).toMatch(/^call_/);
    expect(await idOf("caf\u00e9")).toMatch(/^call_/);
  });

  test("counts refusals by reason", async () => {
    await post("/v1/nope", "{}");
    expect(await server.metrics.text()).toMatch(/helixmesh_openai_refusals_total\{.*reason="route_not_found".*\} \d+/);
  });
});

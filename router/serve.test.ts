import { rm } from "node:fs/promises";
import { connect as connectHttp2, constants } from "node:http2";
import { join } from "node:path";
import { create, toBinary } from "@bufbuild/protobuf";
import { Code, ConnectError, type Transport, createClient } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport, createGrpcWebTransport } from "@connectrpc/connect-node";
import { afterEach, describe, expect, test } from "vitest";
import { ErrorDetailSchema, Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import {
  GenerateRequestSchema,
  type GenerateResponse,
  InferenceService,
  Role,
} from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { Outcome } from "#gen/helixmesh/type/v1/type_pb.ts";
import { tellStory } from "./link/test-agent.ts";
import { type TestMesh, type TestMeshOptions, startTestMesh } from "./test-router.ts";

let mesh: TestMesh | undefined;
afterEach(async () => {
  await mesh?.close();
  mesh = undefined;
});

async function start(options: TestMeshOptions = {}): Promise<TestMesh> {
  mesh = await startTestMesh(options);
  return mesh;
}

const transports: readonly [string, (url: string) => Transport][] = [
  ["grpc", (baseUrl) => createGrpcTransport({ baseUrl })],
  ["grpc-web", (baseUrl) => createGrpcWebTransport({ baseUrl, httpVersion: "1.1" })],
  ["connect", (baseUrl) => createConnectTransport({ baseUrl, httpVersion: "1.1" })],
  ["connect", (baseUrl) => createConnectTransport({ baseUrl, httpVersion: "2", useBinaryFormat: false })],
];

const prompt = { model: "pocket", input: { case: "prompt", value: "Once" } } as const;

function textOf(responses: readonly GenerateResponse[]): string {
  return responses.map(({ event }) => (event.case === "delta" ? event.value.text : "")).join("");
}

async function collect(stream: AsyncIterable<GenerateResponse>): Promise<GenerateResponse[]> {
  const responses: GenerateResponse[] = [];
  for await (const response of stream) responses.push(response);
  return responses;
}

async function faultOf(promise: Promise<unknown>): Promise<ConnectError> {
  const error = await promise.then(
    () => undefined,
    (error: unknown) => error,
  );
  expect(error).toBeInstanceOf(ConnectError);
  return ConnectError.from(error);
}

const auth = (key: string, more: Record<string, string> = {}) => ({
  headers: { authorization: `Bearer ${key}`, ...more },
});

describe.each(transports)("over %s", (door, transport) => {
  test("a story streams from the agent to the client and is settled once", async () => {
    const { url, key, control } = await start({ agents: [{ onCall: tellStory }] });
    const client = createClient(InferenceService, transport(url));
    let requestId: string | null = null;
    const responses = await collect(
      client.generate(
        { ...prompt, model: "small", labels: { team: "red" } },
        {
          ...auth(key, { "x-request-id": "my-call-1" }),
          onHeader: (headers) => (requestId = headers.get("x-request-id")),
        },
      ),
    );
    expect(responses.map(({ event }) => event.case)).toEqual(["started", "delta", "delta", "delta", "finished"]);
    expect(textOf(responses)).toBe("Once upon a time.");
    expect(requestId).toBe("my-call-1");
    await control.until(() => control.usage.length > 0);
    expect(control.usage).toMatchObject([
      {
        callId: "my-call-1",
        model: "pocket",
        deployment: "pocket-deployment",
        nodeId: "node-1",
        projectId: "project-1",
        door,
        outcome: Outcome.COMPLETED,
        usage: { promptTokens: 5, completionTokens: 3 },
        labels: { team: "red" },
        attempts: 1,
      },
    ]);
  });

  test("refusals say what is wrong and carry the request id", async () => {
    const { url, key, operatorKey } = await start({ flags: ["--max-body-bytes=100000"] });
    const client = createClient(InferenceService, transport(url));
    const ask = (request: Parameters<typeof client.generate>[0], options = auth(key)) =>
      faultOf(collect(client.generate(request, options)));

    const badKey = await ask(prompt, auth("hm_000000000000_000000000000000000000000000000000000000000000000"));
    expect(badKey.code).toBe(Code.Unauthenticated);
    const wrongRole = await ask(prompt, auth(operatorKey));
    expect(wrongRole.code).toBe(Code.PermissionDenied);
    const unknown = await ask({ ...prompt, model: "nope" });
    expect(unknown.code).toBe(Code.NotFound);
    const hot = await ask({ ...prompt, sampling: { temperature: 3 } }, auth(key, { "x-request-id": "too-hot" }));
    expect(hot.code).toBe(Code.InvalidArgument);
    expect(hot.rawMessage).toBe("temperature: 3 is outside 0 to 2.");
    expect(hot.metadata.get("x-request-id")).toBe("too-hot");
    expect(hot.findDetails(ErrorDetailSchema)[0]).toMatchObject({
      reason: Reason.INVALID_REQUEST,
      field: "temperature",
      limit: "0 to 2",
      callId: "too-hot",
    });
    const huge = await ask({ ...prompt, input: { case: "prompt", value: "x".repeat(1_000_000) } });
    expect(huge.code).toBe(Code.ResourceExhausted);
  });

  test("models and aliases are listed", async () => {
    const { url, key } = await start();
    const { models } = await createClient(InferenceService, transport(url)).listModels({}, auth(key));
    expect(models).toMatchObject([
      { id: "pocket", resolvesTo: "pocket", readyReplicas: 1, contextTokens: 2048 },
      { id: "small", resolvesTo: "pocket" },
    ]);
  });

  test("a client that leaves cancels the generation", async () => {
    const { url, key, agents, control } = await start();
    const client = createClient(InferenceService, transport(url));
    const leaving = new AbortController();
    const stream = client.generate(prompt, { ...auth(key), signal: leaving.signal });
    const reading = collect(stream);
    const call = await agents[0]?.nextCall();
    call?.started();
    call?.text("Once ");
    leaving.abort();
    expect((await faultOf(reading)).code).toBe(Code.Canceled);
    await call?.cancelled;
    await control.until(() => control.usage.length > 0);
    expect(control.usage).toMatchObject([
      { outcome: Outcome.CANCELLED, usage: { promptTokens: 5, completionTokens: 1 } },
    ]);
  });
});

describe("a router", () => {
  const grpc = (url: string) => createClient(InferenceService, createGrpcTransport({ baseUrl: url }));

  test("refuses a parameter that no engine of the model supports, by name", async () => {
    const { url, key } = await start();
    const error = await faultOf(
      collect(
        grpc(url).generate({ ...prompt, responseFormat: { format: { case: "jsonObject", value: true } } }, auth(key)),
      ),
    );
    expect(error.code).toBe(Code.InvalidArgument);
    expect(error.findDetails(ErrorDetailSchema)[0]).toMatchObject({
      reason: Reason.UNSUPPORTED_PARAMETER,
      field: "response_format",
    });
  });

  test("retries elsewhere when the node is lost before the first token", async () => {
    const { url, key, agents, control } = await start({ agents: [{}, {}] });
    const reading = collect(grpc(url).generate(prompt, auth(key)));
    const arrivals = agents.map((agent) => agent.nextCall().then((call) => ({ agent, call })));
    const first = await Promise.race(arrivals);
    first.call.started(5);
    const other = agents.find((agent) => agent !== first.agent);
    first.agent.dropStreams();
    const second = (await Promise.all(arrivals)).find(({ agent }) => agent === other)?.call;
    second?.started(5);
    second?.text("Once");
    second?.finish();
    const responses = await reading;
    expect(responses.map(({ event }) => event.case)).toEqual(["started", "delta", "finished"]);
    await control.until(() => control.usage.length > 0);
    expect(control.usage).toMatchObject([{ nodeId: other?.options.nodeId, attempts: 2, outcome: Outcome.COMPLETED }]);
  });

  test("begins an answer anew that is sent whole when its node is lost late and it may not move", async () => {
    const { url, key, agents, control } = await start({ agents: [{}, {}], flags: ["--max-moves=0"] });
    const body = JSON.stringify({ model: "pocket", messages: [{ role: "user", content: "Hi" }] });
    const headers = { authorization: `Bearer ${key}`, "content-type": "application/json" };
    const answered = fetch(`${url}/v1/chat/completions`, { method: "POST", headers, body });
    const arrivals = agents.map((agent) => agent.nextCall().then((call) => ({ agent, call })));
    const first = await Promise.race(arrivals);
    first.call.started(5);
    first.call.text("Once ");
    first.call.text("upon ");
    first.agent.dropStreams();
    const second = (await Promise.all(arrivals)).find(({ agent }) => agent !== first.agent);
    second?.call.started(5);
    second?.call.text("Twice.");
    second?.call.finish();
    expect(await (await answered).json()).toMatchObject({
      choices: [{ message: { content: "Twice." } }],
      usage: { prompt_tokens: 5, completion_tokens: 1 },
    });
    await control.until(() => control.usage.length > 0);
    expect(control.usage).toMatchObject([{ attempts: 2, outcome: Outcome.COMPLETED, usage: { completionTokens: 1 } }]);
  });

  test("ends a call whose node is lost after the first token and stays away, as unavailable", async () => {
    const { url, key, agents, control } = await start({ flags: ["--ready-wait=0"] });
    const reading = collect(grpc(url).generate(prompt, auth(key)));
    const call = await agents[0]?.nextCall();
    call?.started(5);
    call?.text("Once ");
    call?.text("upon ");
    agents[0]?.dropStreams();
    const error = await faultOf(reading);
    expect(error.code).toBe(Code.Unavailable);
    expect(error.findDetails(ErrorDetailSchema)[0]?.reason).toBe(Reason.NODE_LOST);
    await control.until(() => control.usage.length > 0);
    expect(control.usage).toMatchObject([
      { outcome: Outcome.FAILED, reason: Reason.NODE_LOST, usage: { promptTokens: 5, completionTokens: 2 } },
    ]);
  });

  test("asks a second node where the first brings no token, and charges for the one that answers", async () => {
    const routing = { hedgeAfterMs: 20, hedgePercent: 100 };
    const { url, key, agents, control } = await start({ agents: [{}, {}], routing });
    const arrivals = agents.map((agent) => agent.nextCall().then((call) => ({ agent, call })));
    const reading = collect(grpc(url).generate(prompt, auth(key)));
    const first = await Promise.race(arrivals);
    first.call.started(5);
    const [second] = (await Promise.all(arrivals)).filter(({ agent }) => agent !== first.agent);
    second?.call.started(5);
    second?.call.text("Once", 1);
    await first.call.cancelled;
    second?.call.finish();
    const responses = await reading;
    expect(responses.map(({ event }) => event.case)).toEqual(["started", "delta", "finished"]);
    await control.until(() => control.usage.length > 0);
    expect(control.usage).toMatchObject([
      { nodeId: second?.agent.options.nodeId, attempts: 2, usage: { completionTokens: 1 } },
    ]);
  });

  test("ends a call at the client's deadline", async () => {
    const { url, key, agents, control } = await start();
    const reading = faultOf(collect(grpc(url).generate(prompt, { ...auth(key), timeoutMs: 300 })));
    const call = await agents[0]?.nextCall();
    expect(Number(call?.start.timeoutMs)).toBeLessThanOrEqual(300);
    expect((await reading).code).toBe(Code.DeadlineExceeded);
    await call?.cancelled;
    await control.until(() => control.usage.length > 0);
    // Whether the client's cancel or the router's own timer comes first is a matter of the network.
    expect(control.usage).toMatchObject([{ outcome: Outcome.FAILED, reason: Reason.DEADLINE_EXCEEDED }]);
  });

  test("tells a client that left its deadline to the router what passed", async () => {
    const { url, key, control } = await start();
    const error = await faultOf(collect(grpc(url).generate(prompt, auth(key, { "grpc-timeout": "50m" }))));
    expect(error.code).toBe(Code.DeadlineExceeded);
    expect(error.findDetails(ErrorDetailSchema)[0]).toMatchObject({ reason: Reason.DEADLINE_EXCEEDED });
    await control.until(() => control.usage.length > 0);
    expect(control.usage).toMatchObject([{ outcome: Outcome.FAILED, reason: Reason.DEADLINE_EXCEEDED }]);
  });

  test("ends what outlasts its drain as draining, at every door", async () => {
    const { url, key, agents, control } = await start({ flags: ["--drain-timeout=20"] });
    const rpc = faultOf(collect(grpc(url).generate(prompt, auth(key))));
    await agents[0]?.nextCall();
    const openAi = fetch(`${url}/v1/completions`, {
      method: "POST",
      headers: { authorization: `Bearer ${key}`, "content-type": "application/json" },
      body: JSON.stringify({ model: "pocket", prompt: "Once" }),
    });
    await agents[0]?.nextCall();
    const closing = mesh?.close();
    mesh = undefined;
    const error = await rpc;
    expect(error.code).toBe(Code.Unavailable);
    expect(error.findDetails(ErrorDetailSchema)[0]).toMatchObject({ reason: Reason.DRAINING });
    const answer = await openAi;
    expect(answer.status).toBe(503);
    expect(await answer.json()).toMatchObject({ error: { code: "draining" } });
    await closing;
    const settled = { outcome: Outcome.FAILED, reason: Reason.DRAINING };
    expect(control.usage).toMatchObject([settled, settled]);
  });

  test("without any snapshot is not ready, and blames no key for it", async () => {
    const { key, control, stateDir, restartRouter } = await start();
    await control.close();
    mesh = await restartRouter(() => rm(join(stateDir, "snapshot.binpb")));
    const { url, adminUrl } = mesh;
    expect((await fetch(`${adminUrl}/readyz`)).status).toBe(503);
    expect((await fetch(`${adminUrl}/livez`)).status).toBe(200);
    const error = await faultOf(collect(grpc(url).generate(prompt, auth(key))));
    expect(error.code).toBe(Code.Unavailable);
    expect(error.findDetails(ErrorDetailSchema)[0]?.reason).toBe(Reason.CONTROL_PLANE_UNAVAILABLE);
  });

  test("says at once that no replica is ready when it may not wait", async () => {
    const { url, key, agents } = await start({ flags: ["--ready-wait=0"] });
    await agents[0]?.close();
    const error = await faultOf(collect(grpc(url).generate(prompt, auth(key))));
    expect(error.code).toBe(Code.Unavailable);
  });

  test("cuts a client that does not read, and cancels its generation", async () => {
    const { url, key, agents, control } = await start({ flags: ["--max-buffered-bytes=10000"] });
    const session = connectHttp2(url);
    const stream = session.request({
      ":method": "POST",
      ":path": "/helixmesh.inference.v1.InferenceService/Generate",
      "content-type": "application/grpc",
      te: "trailers",
      authorization: `Bearer ${key}`,
    });
    stream.on("error", () => {}); // `rstCode` says what happened.
    const closed = new Promise<void>((resolve) => stream.once("close", resolve));
    const message = toBinary(GenerateRequestSchema, create(GenerateRequestSchema, prompt));
    const header = Buffer.alloc(5);
    header.writeUInt32BE(message.length, 1);
    stream.end(Buffer.concat([header, message]));
    const call = await agents[0]?.nextCall();
    call?.started();
    const cancelled = { yes: false };
    const watched = call?.cancelled.then(() => (cancelled.yes = true));
    // As fast as the link takes it, until the router has had enough: windows and buffers on the way fill up first.
    while (!cancelled.yes) {
      call?.text("x".repeat(5_000));
      await new Promise((resolve) => setImmediate(resolve));
    }
    await watched;
    await control.until(() => control.usage.length > 0);
    expect(control.usage).toMatchObject([{ outcome: Outcome.FAILED, reason: Reason.RATE_LIMITED }]);
    await closed;
    expect(stream.rstCode).toBe(constants.NGHTTP2_ENHANCE_YOUR_CALM);
    session.destroy();
  });

  test("names every answer, also those that no handler makes", async () => {
    const { url, key } = await start();
    const headers = { authorization: `Bearer ${key}`, "content-type": "application/json", "x-request-id": "named" };
    const post = (path: string, body: string) => fetch(`${url}${path}`, { method: "POST", headers, body });
    const answers = [
      await post("/helixmesh.inference.v1.InferenceService/CountTokens", '{"model":'),
      await post("/helixmesh.inference.v1.InferenceService/NoSuchMethod", "{}"),
      await post("/v1/no/such/path", "{}"),
      await post("/v1/chat/completions", "{"),
    ];
    expect(answers.map((answer) => answer.status)).toEqual([400, 404, 404, 400]);
    expect(answers.map((answer) => answer.headers.get("x-request-id"))).toEqual(answers.map(() => "named"));
    const unnamed = await fetch(`${url}/v1/models`, { headers: { ...headers, "x-request-id": "é".repeat(3) } });
    expect(unnamed.headers.get("x-request-id")).toMatch(/^call_[0-9a-f]{32}$/);
  });

  test("refuses calls above the limit of a key", async () => {
    const { url, key, agents } = await start({ flags: ["--max-calls-per-key=1"] });
    const reading = collect(grpc(url).generate(prompt, auth(key)));
    const call = await agents[0]?.nextCall();
    const error = await faultOf(collect(grpc(url).generate(prompt, auth(key))));
    expect(error.code).toBe(Code.ResourceExhausted);
    call?.started();
    call?.finish();
    await reading;
  });

  test("serves from its last snapshot after a restart without the control plane, and keeps the usage", async () => {
    const { url, key, control, restartRouter } = await start({ agents: [{ onCall: tellStory }] });
    await collect(grpc(url).generate(prompt, auth(key)));
    await control.until(() => control.usage.length === 1);
    const { port } = control;
    await control.close();
    mesh = await restartRouter();
    expect((await fetch(`${mesh.adminUrl}/readyz`)).status).toBe(200);
    expect(textOf(await collect(grpc(mesh.url).generate(prompt, auth(key))))).toBe("Once upon a time.");
    await control.listen(port);
    await control.until(() => control.usage.length === 2);
  });

  test("finishes open calls when it drains", async () => {
    const { url, key, agents, control } = await start({ flags: ["--drain-timeout=30s"] });
    const reading = collect(grpc(url).generate(prompt, auth(key)));
    const call = await agents[0]?.nextCall();
    call?.started();
    const closing = mesh?.close();
    mesh = undefined;
    call?.text("Once");
    call?.finish();
    expect(textOf(await reading)).toBe("Once");
    await closing;
    expect(control.usage).toMatchObject([{ outcome: Outcome.COMPLETED }]);
  });

  test("shows calls, tokens and links in its metrics, without the prompt", async () => {
    const { url, key, metrics } = await start({ agents: [{ onCall: tellStory }] });
    const chat = { messages: [{ role: Role.USER, content: "a secret prompt" }] };
    await collect(grpc(url).generate({ model: "pocket", input: { case: "chat", value: chat } }, auth(key)));
    const text = await metrics();
    expect(text).toMatch(
      /helixmesh_router_calls_total\{door="grpc",model="pocket",outcome="completed",reason="",service="router"\} 1/,
    );
    expect(text).toMatch(/helixmesh_router_tokens_total\{model="pocket",kind="completion",service="router"\} 3/);
    expect(text).toMatch(/helixmesh_router_links_up\{service="router"\} 1/);
    expect(text).not.toContain("secret prompt");
  });
});

import { once } from "node:events";
import { connect as connectHttp2 } from "node:http2";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { type Transport, createClient } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport, createGrpcWebTransport } from "@connectrpc/connect-node";
import * as grpc from "@grpc/grpc-js";
import OpenAI from "openai";
import { afterEach, describe, expect, test } from "vitest";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import {
  GenerateRequestSchema,
  type GenerateResponse,
  GenerateResponseSchema,
  InferenceService,
} from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { Outcome, ReplicaState } from "#gen/helixmesh/type/v1/type_pb.ts";
import { type TestAgent, tellStory } from "./link/test-agent.ts";
import { type TestMesh, type TestMeshOptions, startTestMesh } from "./test-router.ts";

interface Mesh extends TestMesh {
  readonly agent: TestAgent;
}

let mesh: TestMesh | undefined;
afterEach(async () => {
  await mesh?.close();
  mesh = undefined;
});

async function start(options: TestMeshOptions = {}): Promise<Mesh> {
  mesh = await startTestMesh(options);
  const [agent] = mesh.agents;
  if (!agent) throw new Error("the mesh has an agent");
  return { ...mesh, agent };
}

/** A mesh whose one replica is loading, a quarter of which is done. */
async function startCold(options: TestMeshOptions = {}): Promise<Mesh> {
  const cold = await start(options);
  cold.agent.setState(ReplicaState.LOADING, 0.25);
  const client = createClient(InferenceService, createGrpcTransport({ baseUrl: cold.url }));
  const models = async () => (await client.listModels({}, { headers: { authorization: `Bearer ${cold.key}` } })).models;
  await until(async () => (await models()).every(({ readyReplicas }) => readyReplicas === 0));
  return cold;
}

async function until(holds: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await holds())) await new Promise((resolve) => setTimeout(resolve, 5));
}

const headersFor = (key: string, progress = "true"): Record<string, string> => ({
  authorization: `Bearer ${key}`,
  "x-helixmesh-progress": progress,
});
const prompt = { model: "pocket", input: { case: "prompt", value: "Once" } } as const;
const casesOf = (events: readonly GenerateResponse[]) => events.map(({ event }) => event.case);
const answered = ["started", "delta", "delta", "delta", "finished"];
const wholeAnswer = "Once upon a time.";

/** What a client has read so far. */
interface Reading<T> {
  readonly got: T[];
  readonly ended: Promise<void>;
}

function readRpc(
  { url, key }: TestMesh,
  transport: (baseUrl: string) => Transport,
  progress?: string,
): Reading<GenerateResponse> {
  const got: GenerateResponse[] = [];
  const client = createClient(InferenceService, transport(url));
  const read = async (): Promise<void> => {
    for await (const event of client.generate(prompt, { headers: headersFor(key, progress) })) got.push(event);
  };
  return { got, ended: read() };
}

/** Over grpc-js, which shares no line with what answers. */
function readGrpcJs({ port, key }: TestMesh): Reading<GenerateResponse> {
  const client = new grpc.Client(`127.0.0.1:${port}`, grpc.credentials.createInsecure());
  const stream = client.makeServerStreamRequest(
    `/${InferenceService.typeName}/Generate`,
    (message: Uint8Array) => Buffer.from(message),
    (bytes: Buffer) => fromBinary(GenerateResponseSchema, bytes),
    toBinary(GenerateRequestSchema, create(GenerateRequestSchema, prompt)),
    grpc.Metadata.fromHttp2Headers(headersFor(key)),
  );
  const got: GenerateResponse[] = [];
  stream.on("data", (event: GenerateResponse) => void got.push(event));
  const ended = new Promise<void>((resolve, reject) => {
    stream.on("error", reject);
    stream.on("end", resolve);
  }).finally(() => client.close());
  return { got, ended };
}

const chatBody = JSON.stringify({ model: "pocket", stream: true, messages: [{ role: "user", content: "Once" }] });
const completionsBody = JSON.stringify({ model: "pocket", stream: true, prompt: "Once" });

function readSse({ url, key }: TestMesh, path: string, body: string, progress?: string): Reading<string> {
  const got: string[] = [];
  const read = async (): Promise<void> => {
    const headers = { ...headersFor(key, progress), "content-type": "application/json" };
    const response = await fetch(`${url}${path}`, { method: "POST", headers, body });
    expect(response.status).toBe(200);
    if (!response.body) throw new Error("the answer has a body");
    for await (const text of response.body.pipeThrough(new TextDecoderStream())) got.push(text);
  };
  return { got, ended: read() };
}

function readSseOverHttp2({ url, key }: TestMesh, path: string, body: string): Reading<string> {
  const got: string[] = [];
  const session = connectHttp2(url);
  const head = { ":method": "POST", ":path": path, "content-type": "application/json", ...headersFor(key) };
  const stream = session.request(head).setEncoding("utf8");
  stream.on("data", (text: string) => void got.push(text));
  const ended = new Promise<void>((resolve) => stream.on("end", resolve)).finally(() => session.close());
  stream.end(body);
  return { got, ended };
}

const rpcForms: readonly [string, (mesh: TestMesh) => Reading<GenerateResponse>][] = [
  ["gRPC, by grpc-js", readGrpcJs],
  ["gRPC-Web", (one) => readRpc(one, (baseUrl) => createGrpcWebTransport({ baseUrl, httpVersion: "1.1" }))],
  ["Connect", (one) => readRpc(one, (baseUrl) => createConnectTransport({ baseUrl, httpVersion: "2" }))],
  [
    "Connect in JSON",
    (one) => readRpc(one, (baseUrl) => createConnectTransport({ baseUrl, httpVersion: "1.1", useBinaryFormat: false })),
  ],
];

const sseForms: readonly [string, (mesh: TestMesh) => Reading<string>][] = [
  ["chat, HTTP/1.1", (one) => readSse(one, "/v1/chat/completions", chatBody)],
  ["completions, HTTP/1.1", (one) => readSse(one, "/v1/completions", completionsBody, "1")],
  ["chat, HTTP/2", (one) => readSseOverHttp2(one, "/v1/chat/completions", chatBody)],
];

describe("a caller that asks to hear what its call waits for", () => {
  test.each(rpcForms)("is told over %s how far the loading is, and then gets its answer", async (_form, read) => {
    const cold = await startCold();
    const { got, ended } = read(cold);
    const sawProgress = (share: number) =>
      until(() => got.some(({ event }) => event.case === "waiting" && event.value.progress === share));
    await sawProgress(0.25);
    cold.agent.setState(ReplicaState.LOADING, 0.5);
    await sawProgress(0.5);
    cold.agent.setState(ReplicaState.READY);
    tellStory(await cold.agent.nextCall());
    await ended;
    expect(got[0]?.event).toMatchObject({
      case: "waiting",
      value: { reason: "1 loading (25 %)", state: ReplicaState.LOADING, callsAhead: 0 },
    });
    expect(casesOf(got).filter((kind) => kind !== "waiting")).toEqual(answered);
    expect(casesOf(got).lastIndexOf("waiting")).toBeLessThan(casesOf(got).indexOf("started"));
    await cold.control.until(() => cold.control.usage.length > 0);
    expect(cold.control.usage).toMatchObject([
      { outcome: Outcome.COMPLETED, usage: { promptTokens: 5, completionTokens: 3 } },
    ]);
  });

  test.each(sseForms)("is told in comments of %s, which no event's number counts", async (_form, read) => {
    const cold = await startCold();
    const { got, ended } = read(cold);
    await until(() => got.join("").includes(": waiting, 1 loading (25 %)\n\n"));
    cold.agent.setState(ReplicaState.LOADING, 0.5);
    await until(() => got.join("").includes(": waiting, 1 loading (50 %)\n\n"));
    cold.agent.setState(ReplicaState.READY);
    tellStory(await cold.agent.nextCall());
    await ended;
    const blocks = got.join("").split("\n\n");
    const events = blocks.filter((block) => block.startsWith("data: {"));
    expect(events.map((event) => event.split(":").at(-1))).toEqual(events.map((_event, index) => `${index + 1}`));
    expect(blocks.at(-2)).toBe("data: [DONE]");
    expect(blocks.every((block) => block === "" || block.startsWith("data: ") || block.startsWith(": waiting"))).toBe(
      true,
    );
  });

  test("reads its answer undisturbed with the official client", async () => {
    const { url, key, agent } = await startCold();
    const defaultHeaders = { "x-helixmesh-progress": "true" };
    const client = new OpenAI({ apiKey: key, baseURL: `${url}/v1`, maxRetries: 0, defaultHeaders });
    const messages = [{ role: "user" as const, content: "Once" }];
    // Resolves with the first comment, since that sends the status.
    const stream = await client.chat.completions.create({ model: "pocket", stream: true, messages });
    agent.setState(ReplicaState.READY);
    tellStory(await agent.nextCall());
    let text = "";
    for await (const chunk of stream) text += chunk.choices[0]?.delta.content ?? "";
    expect(text).toBe(wholeAnswer);
  });

  test("gets a later failure as the stream's error, with how far it was", async () => {
    const { url, key } = await startCold({ flags: ["--ready-wait=600"] });
    const client = new OpenAI({ apiKey: key, baseURL: `${url}/v1`, maxRetries: 0 });
    const messages = [{ role: "user" as const, content: "Once" }];
    const ask = { model: "pocket", stream: true as const, messages };
    const stream = await client.chat.completions.create(ask, { headers: { "x-helixmesh-progress": "true" } });
    await expect(stream[Symbol.asyncIterator]().next()).rejects.toThrow(/waited \d+ ms .* \(1 loading \(25 %\)\)/);
    const refused = client.chat.completions.create(ask);
    await expect(refused).rejects.toMatchObject({ status: 503, message: expect.stringMatching(/1 loading \(25 %\)/) });
  });

  test("is told that all replicas are busy, and about how many calls go first", async () => {
    const busy = await start({ agents: [{ capabilities: { parallelSequences: 1 } }] });
    const { agent } = busy;
    const quiet = ["0", "false"].map((value) => readRpc(busy, (baseUrl) => createGrpcTransport({ baseUrl }), value));
    const running = [await agent.nextCall(), await agent.nextCall()];
    const first = readSse(busy, "/v1/chat/completions", chatBody);
    await until(() => first.got.join("").includes(": waiting, 1 busy\n\n"));
    const second = readGrpcJs(busy);
    await until(() => second.got.length > 0);
    expect(second.got[0]?.event).toMatchObject({
      case: "waiting",
      value: { reason: "1 busy", state: ReplicaState.READY, callsAhead: 1 },
    });
    const third = readSse(busy, "/v1/completions", completionsBody);
    await until(() => third.got.join("").includes(": waiting, 1 busy, about 2 calls ahead\n\n"));
    for (const call of running) tellStory(call);
    for (let left = 3; left > 0; left--) tellStory(await agent.nextCall());
    await Promise.all([...quiet, first, second, third].map(({ ended }) => ended));
    expect(casesOf(quiet.flatMap(({ got }) => got))).toEqual([...answered, ...answered]);
  });

  test("is told of the wait in the middle of its answer too, which no replica hears of", async () => {
    const { agent, ...router } = await start();
    const { got, ended } = readGrpcJs(router);
    const call = await agent.nextCall();
    call.started();
    call.text("Once ");
    await until(() => got.length >= 2);
    agent.setState(ReplicaState.LOADING, 0.25);
    call.end({ reason: Reason.NODE_LOST, message: "gone." });
    await until(() => got.length >= 3);
    agent.setState(ReplicaState.READY);
    const moved = await agent.nextCall();
    expect(moved.start.relayed).toHaveLength(2);
    moved.text("upon.");
    moved.finish();
    await ended;
    expect(got[2]?.event).toMatchObject({ case: "waiting", value: { reason: "1 loading (25 %)" } });
    expect(casesOf(got).filter((kind) => kind !== "waiting")).toEqual(["started", "delta", "delta", "finished"]);
  });

  test("is told nothing more while it has a word of it unread", async () => {
    const cold = await startCold();
    const session = connectHttp2(cold.url, { settings: { initialWindowSize: 0 } });
    const stream = session.request({
      ":method": "POST",
      ":path": `/${InferenceService.typeName}/Generate`,
      "content-type": "application/grpc",
      te: "trailers",
      ...headersFor(cold.key),
    });
    const message = toBinary(GenerateRequestSchema, create(GenerateRequestSchema, prompt));
    stream.end(Buffer.concat([Buffer.from([0, 0, 0, 0, message.length]), message]));
    // The head comes with the first word, whose bytes wait for a window; the other caller is told as often from now on.
    await once(stream, "response");
    const reader = readGrpcJs(cold);
    await until(() => reader.got.length >= 3);
    cold.agent.setState(ReplicaState.READY);
    tellStory(await cold.agent.nextCall());
    tellStory(await cold.agent.nextCall());
    await reader.ended;
    session.settings({ initialWindowSize: 65_535 });
    const chunks: Buffer[] = [];
    for await (const chunk of stream) chunks.push(chunk as Buffer);
    session.close();
    expect(casesOf(grpcMessages(Buffer.concat(chunks)))).toEqual(["waiting", ...answered]);
  });
});

describe("a caller that does not ask", () => {
  test("sees nothing before its answer", async () => {
    const cold = await startCold();
    const rpc = readRpc(cold, (baseUrl) => createConnectTransport({ baseUrl, httpVersion: "2" }), "no");
    const sse = readSse(cold, "/v1/chat/completions", chatBody, "no");
    const asking = readGrpcJs(cold);
    await until(() => asking.got.length >= 2);
    cold.agent.setState(ReplicaState.READY);
    for (let left = 3; left > 0; left--) tellStory(await cold.agent.nextCall());
    await Promise.all([rpc.ended, sse.ended, asking.ended]);
    expect(casesOf(rpc.got)).toEqual(answered);
    expect(sse.got.join("")).toMatch(/^data: \{/);
    expect(sse.got.join("")).not.toContain("waiting");
  });
});

function grpcMessages(bytes: Buffer): GenerateResponse[] {
  const messages: GenerateResponse[] = [];
  for (let at = 0; at < bytes.length;) {
    const end = at + 5 + bytes.readUInt32BE(at + 1);
    messages.push(fromBinary(GenerateResponseSchema, bytes.subarray(at + 5, end)));
    at = end;
  }
  return messages;
}

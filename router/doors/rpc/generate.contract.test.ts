import type { IncomingHttpHeaders } from "node:http";
import { connect as connectHttp2, constants } from "node:http2";
import { type MessageInitShape, create, toBinary } from "@bufbuild/protobuf";
import { Code, ConnectError, type Transport, createClient } from "@connectrpc/connect";
import {
  compressionGzip,
  createConnectTransport,
  createGrpcTransport,
  createGrpcWebTransport,
} from "@connectrpc/connect-node";
import { afterEach, describe, expect, test } from "vitest";
import { ErrorDetailSchema, Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import {
  GenerateRequestSchema,
  type GenerateResponse,
  InferenceService,
} from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { Outcome } from "#gen/helixmesh/type/v1/type_pb.ts";
import { tellStory } from "../../link/test-agent.ts";
import { type TestMesh, type TestMeshOptions, startTestMesh } from "../../test-router.ts";

// The same calls over the hot method and over the universal handlers: who measures, bills or debugs sees no difference.

interface Form {
  readonly door: string;
  readonly contentType: string;
  readonly transport: (options: { baseUrl: string; gzip?: boolean }) => Transport;
}

const compression = (gzip = false) => (gzip ? { compressMinBytes: 1, sendCompression: compressionGzip } : {});
const forms: readonly Form[] = [
  {
    door: "grpc",
    contentType: "application/grpc",
    transport: ({ baseUrl, gzip }) => createGrpcTransport({ baseUrl, ...compression(gzip) }),
  },
  {
    door: "grpc-web",
    contentType: "application/grpc-web+proto",
    transport: ({ baseUrl, gzip }) => createGrpcWebTransport({ baseUrl, httpVersion: "2", ...compression(gzip) }),
  },
  {
    door: "connect",
    contentType: "application/connect+proto",
    transport: ({ baseUrl, gzip }) => createConnectTransport({ baseUrl, httpVersion: "2", ...compression(gzip) }),
  },
];

let mesh: TestMesh | undefined;
afterEach(async () => {
  await mesh?.close();
  mesh = undefined;
});

const prompt = { model: "pocket", input: { case: "prompt", value: "Once" }, labels: { team: "red" } } as const;

interface Seen {
  readonly events: readonly (string | undefined)[];
  readonly error: ConnectError | undefined;
  readonly requestId: string | null | undefined;
}

async function start(form: Form, options: TestMeshOptions = {}) {
  const running = await startTestMesh(options);
  mesh = running;
  const headers = { authorization: `Bearer ${running.key}`, "x-request-id": "contract-1" };
  async function ask(
    request: MessageInitShape<typeof GenerateRequestSchema> = prompt,
    call: { headers?: Record<string, string>; signal?: AbortSignal; timeoutMs?: number; gzip?: boolean } = {},
  ): Promise<Seen> {
    const client = createClient(
      InferenceService,
      form.transport({ baseUrl: running.url, ...(call.gzip === true && { gzip: true }) }),
    );
    const events: GenerateResponse[] = [];
    let requestId: string | null | undefined;
    try {
      const stream = client.generate(request, {
        headers: { ...headers, ...call.headers },
        onHeader: (got) => void (requestId = got.get("x-request-id")),
        ...(call.signal && { signal: call.signal }),
        ...(call.timeoutMs !== undefined && { timeoutMs: call.timeoutMs }),
      });
      for await (const event of stream) events.push(event);
      return { events: events.map(({ event }) => event.case), error: undefined, requestId };
    } catch (thrown) {
      const error = ConnectError.from(thrown);
      requestId ??= error.metadata.get("x-request-id");
      return { events: events.map(({ event }) => event.case), error, requestId };
    }
  }
  /** Settled calls by outcome and reason, as the metrics have them. */
  async function counted(): Promise<string[]> {
    const lines = (await running.metrics()).split("\n");
    return lines.filter((line) => line.startsWith("helixmesh_router_calls_total{")).map((line) => withoutService(line));
  }
  const [agent] = running.agents;
  if (!agent) throw new Error("the mesh has no agent");
  return { ...running, agent, ask, counted };
}

const withoutService = (line: string): string => line.replace(/service="[^"]*",?/, "").replace(/^[^{]*/, "");
const line = (form: Form, outcome: string, reason: string, model = "pocket"): RegExp =>
  new RegExp(
    `^(?=.*door="${form.door}")(?=.*model="${model}")(?=.*outcome="${outcome}")(?=.*reason="${reason}").*\\} 1$`,
  );

describe.each(forms)("Generate over $contentType", (form) => {
  test.each([false, true])("streams and accounts for a story (gzip %s)", async (gzip) => {
    const { ask, control, counted, agent } = await start(form);
    const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const seen = ask(prompt, { headers: { traceparent }, gzip });
    const call = await agent.nextCall();
    expect(call.start).toMatchObject({ callId: "contract-1", model: "pocket", traceparent });
    expect(Buffer.from(call.start.request)).toEqual(
      Buffer.from(toBinary(GenerateRequestSchema, create(GenerateRequestSchema, prompt))),
    );
    tellStory(call);
    expect(await seen).toEqual({
      events: ["started", "delta", "delta", "delta", "finished"],
      error: undefined,
      requestId: "contract-1",
    });
    await control.until(() => control.usage.length > 0);
    expect(control.usage).toMatchObject([
      {
        callId: "contract-1",
        door: form.door,
        model: "pocket",
        outcome: Outcome.COMPLETED,
        usage: { promptTokens: 5, completionTokens: 3 },
        labels: { team: "red" },
        attempts: 1,
      },
    ]);
    expect(await counted()).toEqual([expect.stringMatching(line(form, "completed", ""))]);
  });

  test.each([
    ["a wrong key", { headers: { authorization: "Bearer hm_x" } }, {}, Code.Unauthenticated, Reason.INVALID_API_KEY],
    // Clients on node:http2 can take no answer while they hold 10 MB unsent.
    [
      "a wrong key with 30 MB",
      { headers: { authorization: "Bearer hm_x" } },
      { stop: ["x".repeat(30_000_000)] },
      Code.Unauthenticated,
      Reason.INVALID_API_KEY,
    ],
    ["no key", { headers: { authorization: "" } }, {}, Code.Unauthenticated, Reason.INVALID_API_KEY],
    ["a wrong value", {}, { sampling: { temperature: 3 } }, Code.InvalidArgument, Reason.INVALID_REQUEST],
    ["an unknown model", {}, { model: "nope" }, Code.NotFound, Reason.MODEL_NOT_FOUND],
    ["a body too large", {}, { stop: ["x".repeat(3_000)] }, Code.ResourceExhausted, Reason.REQUEST_TOO_LARGE],
    ["one of 30 MB", {}, { stop: ["x".repeat(30_000_000)] }, Code.ResourceExhausted, Reason.REQUEST_TOO_LARGE],
    [
      "one that inflates",
      { gzip: true },
      { stop: ["x".repeat(9_000)] },
      Code.ResourceExhausted,
      Reason.REQUEST_TOO_LARGE,
    ],
  ])("refuses %s", async (_what, call, change, code, reason) => {
    const { ask } = await start(form, { flags: ["--max-body-bytes=2000"] });
    const { error, events, requestId } = await ask({ ...prompt, ...change }, call);
    expect(events).toEqual([]);
    expect(error?.code).toBe(code);
    expect(error?.findDetails(ErrorDetailSchema)).toMatchObject([{ reason, callId: "contract-1" }]);
    expect(requestId).toBe("contract-1");
  });

  test("resumes no call that nobody holds, and says under its id what to do", async () => {
    const { ask, agent, counted, control } = await start(form, { flags: ["--resume-wait=0"] });
    const gone = await ask(prompt, { headers: { "x-helixmesh-resume": "gone" } });
    expect(gone).toMatchObject({ events: [], error: { code: Code.NotFound }, requestId: "gone" });
    expect(gone.error?.message).toContain("Send the request without it");
    const [detail] = gone.error?.findDetails(ErrorDetailSchema) ?? [];
    expect(detail).toMatchObject({ reason: Reason.NOT_FOUND, field: "x-helixmesh-resume", callId: "gone" });
    expect(await counted()).toEqual([expect.stringMatching(line(form, "failed", "not_found", ""))]);
    const after = await ask(prompt, { headers: { "x-helixmesh-resume": "gone", "x-helixmesh-resume-after": "-1" } });
    expect(after.error?.findDetails(ErrorDetailSchema)).toMatchObject([
      { reason: Reason.INVALID_REQUEST, field: "x-helixmesh-resume-after" },
    ]);
    void agent.nextCall().then(tellStory);
    expect((await ask(prompt, { headers: { "x-helixmesh-resume": "" } })).requestId).toBe("contract-1");
    await control.until(() => control.usage.length > 0);
    expect(control.usage.map(({ callId }) => callId)).toEqual(["contract-1"]);
  });

  test("counts what it refuses, and a key at its limit is told when to come again", async () => {
    const { ask, agent, counted } = await start(form, { flags: ["--max-calls-per-key=1"] });
    const leaving = new AbortController();
    const first = ask(prompt, { signal: leaving.signal });
    const call = await agent.nextCall();
    const { error } = await ask();
    expect(error?.findDetails(ErrorDetailSchema)).toMatchObject([{ reason: Reason.RATE_LIMITED, retryable: true }]);
    expect(await counted()).toEqual([expect.stringMatching(line(form, "failed", "rate_limit_exceeded", ""))]);
    leaving.abort();
    await first;
    await call.cancelled;
  });

  test("cancels the generation of a client that leaves", async () => {
    const { ask, agent, control, counted } = await start(form);
    const leaving = new AbortController();
    const seen = ask(prompt, { signal: leaving.signal });
    const call = await agent.nextCall();
    call.started();
    call.text("Once ");
    leaving.abort();
    expect((await seen).error?.code).toBe(Code.Canceled);
    await call.cancelled;
    await control.until(() => control.usage.length > 0);
    expect(control.usage).toMatchObject([{ outcome: Outcome.CANCELLED, usage: { completionTokens: 1 } }]);
    expect(await counted()).toEqual([expect.stringMatching(line(form, "cancelled", "cancelled"))]);
  });

  test("ends a call at its deadline, behind what it had", async () => {
    const { ask, agent, control } = await start(form);
    // As a header of our own, so that the client leaves the deadline to the router.
    const timeout = form.door === "connect" ? { "connect-timeout-ms": "200" } : { "grpc-timeout": "200m" };
    const seen = ask(prompt, { headers: timeout });
    const call = await agent.nextCall();
    expect(Number(call.start.timeoutMs)).toBeLessThanOrEqual(200);
    call.started();
    call.text("Once ");
    const { events, error } = await seen;
    expect(events).toEqual(["started", "delta"]);
    expect(error?.code).toBe(Code.DeadlineExceeded);
    expect(error?.findDetails(ErrorDetailSchema)).toMatchObject([{ reason: Reason.DEADLINE_EXCEEDED }]);
    await call.cancelled;
    await control.until(() => control.usage.length > 0);
    expect(control.usage).toMatchObject([{ outcome: Outcome.FAILED, reason: Reason.DEADLINE_EXCEEDED }]);
  });

  test("refuses a deadline that is none", async () => {
    const name = form.door === "connect" ? "connect-timeout-ms" : "grpc-timeout";
    const { ask } = await start(form);
    const { error } = await ask(prompt, { headers: { [name]: "soon" } });
    expect(error?.findDetails(ErrorDetailSchema)).toMatchObject([{ reason: Reason.INVALID_REQUEST, field: name }]);
  });

  test("passes an agent's failure on, after output too, where the call may not move", async () => {
    const { ask, agent } = await start(form, { flags: ["--max-moves=0"] });
    const seen = ask();
    const call = await agent.nextCall();
    call.started();
    call.text("Once ");
    call.end({ reason: Reason.ENGINE_FAILED, message: "The engine died." });
    const { events, error } = await seen;
    expect(events).toEqual(["started", "delta"]);
    expect(error?.rawMessage).toBe("The engine died. What came before is valid but incomplete; call again.");
    expect(error?.findDetails(ErrorDetailSchema)).toMatchObject([{ reason: Reason.ENGINE_FAILED }]);
  });

  test("goes on elsewhere as one stream when its node is lost after output", async () => {
    const { ask, agents, control } = await start(form, { agents: [{}, {}] });
    const seen = ask();
    const arrivals = agents.map((agent) => agent.nextCall().then((call) => ({ agent, call })));
    const first = await Promise.race(arrivals);
    first.call.started();
    first.call.text("Once ");
    first.call.text("upon ", 2);
    first.agent.dropStreams();
    const second = (await Promise.all(arrivals)).find(({ agent }) => agent !== first.agent);
    expect(second?.call.start.relayed).toHaveLength(3);
    second?.call.text("a time.");
    second?.call.finish();
    expect((await seen).events).toEqual(["started", "delta", "delta", "delta", "finished"]);
    await control.until(() => control.usage.length > 0);
    expect(control.usage).toMatchObject([
      { outcome: Outcome.COMPLETED, nodeId: second?.agent.options.nodeId, attempts: 2 },
    ]);
  });

  test("ends as draining what outlasts a drain", async () => {
    const running = await start(form, { flags: ["--drain-timeout=20"] });
    const { ask, agent, control } = running;
    const seen = ask();
    const call = await agent.nextCall();
    call.started();
    mesh = undefined;
    const closing = running.close();
    expect((await seen).error?.findDetails(ErrorDetailSchema)).toMatchObject([{ reason: Reason.DRAINING }]);
    await closing;
    expect(control.usage).toMatchObject([{ outcome: Outcome.FAILED, reason: Reason.DRAINING }]);
  });

  test("cuts a client that does not read", async () => {
    const { url, key, agent, control, metrics } = await start(form, { flags: ["--max-buffered-bytes=10000"] });
    const { stream, session } = rawCall(url, form.contentType, key, envelope(requestBytes, false));
    const closed = new Promise<void>((resolve) => stream.once("close", resolve));
    const call = await agent.nextCall();
    call.started();
    const cancelled = { yes: false };
    void call.cancelled.then(() => (cancelled.yes = true));
    // As fast as the link takes it, until the router has had enough: windows and buffers on the way fill up first.
    while (!cancelled.yes) {
      call.text("x".repeat(5_000));
      await new Promise((resolve) => setImmediate(resolve));
    }
    await control.until(() => control.usage.length > 0);
    expect(control.usage).toMatchObject([{ outcome: Outcome.FAILED, reason: Reason.RATE_LIMITED }]);
    await closed;
    expect(stream.rstCode).toBe(constants.NGHTTP2_ENHANCE_YOUR_CALM);
    expect(await metrics()).toMatch(/router_slow_clients_cut_total(\{[^}]*\})? 1/);
    session.destroy();
  });

  test("goes on when a slow client reads again", async () => {
    const { url, key, agent, control } = await start(form);
    const { stream, session } = rawCall(url, form.contentType, key, envelope(requestBytes, false));
    const call = await agent.nextCall();
    call.started();
    const text = "x".repeat(5_000);
    // More than the client's window of 64 KiB, less than the router keeps.
    for (let at = 0; at < 40; at++) call.text(text);
    call.finish();
    await control.until(() => control.usage.length > 0);
    let bytes = 0;
    for await (const chunk of stream) bytes += (chunk as Buffer).length;
    expect(bytes).toBeGreaterThan(40 * text.length);
    session.destroy();
  });

  test.each([
    ["nothing", "12", Buffer.alloc(0)],
    ["two messages", "12", () => Buffer.concat([envelope(requestBytes, false), envelope(requestBytes, false)])],
    ["half a message", "3", () => envelope(requestBytes, false).subarray(0, 9)],
    ["no message", "3", () => envelope(Buffer.from([0xff]), false)],
    ["what is no gzip", "3", () => envelope(Buffer.from("plain"), true)],
  ])("refuses a body with %s", async (_what, status, body) => {
    const { url, key, counted } = await start(form);
    const { stream, session } = rawCall(url, form.contentType, key, typeof body === "function" ? body() : body);
    expect(await statusOf(stream)).toBe(status);
    expect(await counted()).toEqual([]);
    session.destroy();
  });
});

const requestBytes = Buffer.from(toBinary(GenerateRequestSchema, create(GenerateRequestSchema, prompt)));

function envelope(message: Buffer, compressed: boolean): Buffer {
  const header = Buffer.alloc(5);
  header[0] = Number(compressed);
  header.writeUInt32BE(message.length, 1);
  return Buffer.concat([header, message]);
}

function rawCall(url: string, contentType: string, key: string, body: Buffer) {
  const session = connectHttp2(url);
  const stream = session.request({
    ":method": "POST",
    ":path": "/helixmesh.inference.v1.InferenceService/Generate",
    "content-type": contentType,
    // Only where it is needed: it also says that answers may be compressed.
    ...(body[0] === 1 && { [contentType.includes("connect") ? "connect-content-encoding" : "grpc-encoding"]: "gzip" }),
    te: "trailers",
    authorization: `Bearer ${key}`,
  });
  stream.on("error", () => {}); // `rstCode` says what happened.
  stream.end(body);
  return { session, stream };
}

/** The gRPC status, wherever the protocol has it. */
async function statusOf(stream: ReturnType<typeof rawCall>["stream"]): Promise<string | undefined> {
  let status: string | undefined;
  const look = (headers: IncomingHttpHeaders): void => void (status ??= headers["grpc-status"]?.toString());
  stream.on("response", look);
  stream.on("trailers", look);
  let body = "";
  for await (const chunk of stream) body += (chunk as Buffer).toString("latin1");
  status ??= /grpc-status: (\d+)/.exec(body)?.[1];
  if (status === undefined && body.includes('"code":"invalid_argument"')) status = "3";
  if (status === undefined && body.includes('"code":"unimplemented"')) status = "12";
  return status;
}

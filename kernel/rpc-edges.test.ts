import { once } from "node:events";
import { type ClientHttp2Session, type ClientHttp2Stream, connect as http2Connect, constants } from "node:http2";
import { connect as tcpConnect } from "node:net";
import { buffer, text } from "node:stream/consumers";
import { type MessageInitShape, create, fromBinary } from "@bufbuild/protobuf";
import { Code, ConnectError, type Transport, createClient } from "@connectrpc/connect";
import {
  compressionGzip,
  createConnectTransport,
  createGrpcTransport,
  createGrpcWebTransport,
} from "@connectrpc/connect-node";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type ErrorDetail, ErrorDetailSchema, Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import {
  CountTokensRequestSchema,
  GenerateRequestSchema,
  GenerateResponseSchema,
  InferenceService,
} from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { silentLogger } from "#kernel/log.ts";
import { Metrics } from "#kernel/metrics.ts";
import { cutResponse } from "#kernel/rpc-response.ts";
import { type RpcServer, type RpcServerOptions, startRpcServer } from "#kernel/rpc-server.ts";

const maxBodyBytes = 100_000;
const countTokensPath = "/helixmesh.inference.v1.InferenceService/CountTokens";
const generatePath = "/helixmesh.inference.v1.InferenceService/Generate";
const cleanups: (() => Promise<void> | void)[] = [];
let metrics: Metrics;
let cut: () => void;
let entered: PromiseWithResolvers<void>;

beforeEach(() => {
  metrics = new Metrics("test");
  entered = Promise.withResolvers();
});
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

/** `countTokens` answers the length of the model's name or waits for its signal; `generate` fills what the client gives. */
async function startServer(options: Partial<RpcServerOptions> = {}): Promise<RpcServer> {
  const server = await startRpcServer({
    host: "127.0.0.1",
    port: 0,
    services: [InferenceService],
    health: () => true,
    maxBodyBytes,
    logger: silentLogger,
    metrics,
    routes(router) {
      router.service(InferenceService, {
        async countTokens({ model }, { signal }) {
          entered.resolve();
          if (model === "wait" && !signal.aborted) await once(signal, "abort");
          signal.throwIfAborted();
          return { promptTokens: model.length };
        },
        async *generate(
          { model },
          { values, signal },
        ): AsyncGenerator<MessageInitShape<typeof GenerateResponseSchema>> {
          cut = values.get(cutResponse);
          yield { event: { case: "started", value: { model: "x".repeat(100_000) } } };
          entered.resolve();
          if (model === "wait" && !signal.aborted) await once(signal, "abort");
          signal.throwIfAborted();
          yield { event: { case: "finished", value: {} } };
        },
      });
    },
    ...options,
  });
  cleanups.push(() => server.close());
  return server;
}

type Send = { sendCompression?: typeof compressionGzip; compressMinBytes?: number };

const protocols: [string, (port: number, send?: Send) => Transport][] = [
  ["gRPC", (port, send) => createGrpcTransport({ baseUrl: `http://127.0.0.1:${port}`, ...send })],
  [
    "gRPC-Web over HTTP/1.1",
    (port, send) => createGrpcWebTransport({ baseUrl: `http://127.0.0.1:${port}`, httpVersion: "1.1", ...send }),
  ],
  [
    "Connect over HTTP/1.1",
    (port, send) =>
      createConnectTransport({
        baseUrl: `http://127.0.0.1:${port}`,
        httpVersion: "1.1",
        useBinaryFormat: true,
        ...send,
      }),
  ],
  [
    "Connect over HTTP/2",
    (port, send) =>
      createConnectTransport({ baseUrl: `http://127.0.0.1:${port}`, httpVersion: "2", useBinaryFormat: true, ...send }),
  ],
];

async function faultOf(promise: Promise<unknown>): Promise<{ error: ConnectError; detail: ErrorDetail | undefined }> {
  const error = ConnectError.from(
    await promise.then(
      () => "no failure",
      (reason: unknown) => reason,
    ),
  );
  return { error, detail: error.findDetails(ErrorDetailSchema)[0] };
}

async function drain(stream: AsyncIterable<unknown>): Promise<void> {
  for await (const _ of stream);
}

function session(port: number, settings: { initialWindowSize?: number } = {}): ClientHttp2Session {
  const opened = http2Connect(`http://127.0.0.1:${port}`, { settings });
  cleanups.push(() => opened.destroy());
  return opened;
}

function post(over: ClientHttp2Session, path: string, type: string, headers: Record<string, string> = {}) {
  const stream = over.request({ ":method": "POST", ":path": path, "content-type": type, te: "trailers", ...headers });
  stream.on("error", () => {}); // `rstCode` says what happened.
  return stream;
}

function envelope(length: number, payload: Uint8Array = Buffer.alloc(0)): Buffer {
  const header = Buffer.alloc(5);
  header.writeUInt32BE(length, 1);
  return Buffer.concat([header, payload]);
}

/** Unlike `once`, also when the stream failed. */
function closed(stream: ClientHttp2Stream): Promise<void> {
  return new Promise((resolve) => stream.once("close", resolve));
}

async function answerOf(stream: ClientHttp2Stream) {
  const trailers = once(stream, "trailers").then(([found]) => found as Record<string, string>);
  const over = closed(stream);
  const [headers] = (await once(stream, "response")) as [Record<string, string | number>];
  const body = (await buffer(stream)).toString();
  await over;
  return { headers, body, trailers, rstCode: stream.rstCode };
}

describe("a body that is refused before its end", () => {
  test("over gRPC has its stream ended after the answer, so that a drain need not wait", async () => {
    const server = await startServer();
    const stream = post(session(server.port), countTokensPath, "application/grpc");
    stream.write(envelope(50_000_000, Buffer.alloc(20_000)));
    const answer = await answerOf(stream);
    expect(await answer.trailers).toMatchObject({ "grpc-status": String(Code.ResourceExhausted) });
    expect(answer.rstCode).toBe(constants.NGHTTP2_NO_ERROR);
    await server.drain(60_000);
    expect(server.connections()).toBe(0);
  });

  test("over Connect has its stream ended after the answer", async () => {
    const server = await startServer();
    const headers = { "content-length": "50000000" };
    const stream = post(session(server.port), countTokensPath, "application/json", headers);
    stream.write(Buffer.alloc(20_000));
    const answer = await answerOf(stream);
    expect(answer.headers[":status"]).toBe(429);
    expect(answer.body).toContain("the limit is 100000 bytes");
    expect(answer.rstCode).toBe(constants.NGHTTP2_NO_ERROR);
    await server.drain(60_000);
  });

  test("over HTTP/1.1 is read to its end, so that the answer arrives and the connection goes on", async () => {
    const { port } = await startServer();
    const socket = tcpConnect(port, "127.0.0.1");
    cleanups.push(() => void socket.destroy());
    const head = `POST ${countTokensPath} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n`;
    // It reads nothing until it has sent all: more than the buffers on the way hold.
    socket.write(`${head}transfer-encoding: chunked\r\n\r\n`);
    for (let count = 0; count < 200; count++) {
      if (!socket.write(`10000\r\n${"x".repeat(0x10000)}\r\n`)) await once(socket, "drain");
    }
    socket.end(`0\r\n\r\n${head}content-length: 13\r\nconnection: close\r\n\r\n{"model":"a"}`);
    expect(await text(socket)).toMatch(
      /^HTTP\/1\.1 429 [^]*the limit is 100000 bytes[^]*HTTP\/1\.1 200 [^]*promptTokens/,
    );
  });

  test("does not use up the window of its connection", async () => {
    const server = await startServer();
    const over = session(server.port);
    for (let i = 0; i < 12; i++) {
      const stream = post(over, countTokensPath, "application/grpc");
      stream.end(envelope(1_000_000, Buffer.alloc(1_000_000)));
      expect(await (await answerOf(stream)).trailers).toMatchObject({ "grpc-status": String(Code.ResourceExhausted) });
    }
    const stream = post(over, countTokensPath, "application/grpc");
    stream.end(envelope(90_000, Buffer.concat([Buffer.of(0x0a, 0x8c, 0xbf, 0x05), Buffer.alloc(89_996, 97)])));
    expect(await (await answerOf(stream)).trailers).toMatchObject({ "grpc-status": "0" });
  });

  test("is counted", async () => {
    const server = await startServer();
    const client = createClient(InferenceService, createGrpcTransport({ baseUrl: `http://127.0.0.1:${server.port}` }));
    await faultOf(client.countTokens({ model: "m".repeat(maxBodyBytes) }));
    expect(await metrics.text()).toMatch(/rpc_bound_reached_total\{bound="message_bytes",service="test"\} 1/);
  });

  test("may take only so long to come", async () => {
    const server = await startServer({ bodyTimeoutMs: 20 });
    const stream = post(session(server.port), countTokensPath, "application/grpc");
    stream.write(envelope(100));
    const answer = await answerOf(stream);
    expect(await answer.trailers).toMatchObject({ "grpc-status": String(Code.DeadlineExceeded) });
    expect(await metrics.text()).toMatch(/bound="request_time",service="test"\} 1/);
  });
});

describe("a client that does not read", () => {
  const model = (name: string) => Buffer.concat([Buffer.of(0x0a, name.length), Buffer.from(name)]);

  test("has its HTTP/2 stream reset when its call is cut", async () => {
    const server = await startServer();
    const stream = post(session(server.port, { initialWindowSize: 1_000 }), generatePath, "application/grpc");
    stream.end(envelope(3, model("a")));
    await once(stream, "response");
    cut();
    await closed(stream);
    expect(stream.rstCode).toBe(constants.NGHTTP2_ENHANCE_YOUR_CALM);
    await server.drain(60_000);
  });

  test("has its HTTP/2 stream reset after a while", async () => {
    const server = await startServer({ stallTimeoutMs: 20 });
    const stream = post(session(server.port, { initialWindowSize: 1_000 }), generatePath, "application/grpc");
    stream.end(envelope(3, model("a")));
    await closed(stream);
    expect(stream.rstCode).toBe(constants.NGHTTP2_ENHANCE_YOUR_CALM);
    expect(await metrics.text()).toMatch(/bound="stalled_client",service="test"\} 1/);
  });
});

describe.each(protocols)("over %s", (name, transport) => {
  test("a call that a drain cuts ends as draining", async () => {
    const server = await startServer();
    const client = createClient(InferenceService, transport(server.port));
    const counted = faultOf(client.countTokens({ model: "wait" }));
    await entered.promise;
    entered = Promise.withResolvers();
    const streamed = faultOf(drain(client.generate({ model: "wait" })));
    await entered.promise;
    await server.drain(20);
    for (const { error, detail } of [await counted, await streamed]) {
      expect(error.code).toBe(Code.Unavailable);
      expect(detail).toMatchObject({ reason: Reason.DRAINING, retryable: true });
    }
  });

  test("a large message that is refused leaves nothing that a drain waits for", async () => {
    const server = await startServer();
    const client = createClient(InferenceService, transport(server.port));
    for (const length of [150_000, 5_000_000]) {
      const { error, detail } = await faultOf(client.countTokens({ model: "m".repeat(length) }));
      expect(error.code).toBe(Code.ResourceExhausted);
      expect(detail).toMatchObject({ reason: Reason.REQUEST_TOO_LARGE, limit: "100000 bytes" });
    }
    await server.drain(60_000);
    expect(server.connections()).toBe(0);
  });

  test("a call that outlasts its deadline ends with our detail", async () => {
    const server = await startServer();
    const client = createClient(InferenceService, transport(server.port));
    // By header alone: the client has no timer that could come first.
    const headers = name.startsWith("Connect") ? { "connect-timeout-ms": "30" } : { "grpc-timeout": "30m" };
    const counted = await faultOf(client.countTokens({ model: "wait" }, { headers }));
    const streamed = await faultOf(drain(client.generate({ model: "wait" }, { headers })));
    for (const { error, detail } of [counted, streamed]) {
      expect(error.code).toBe(Code.DeadlineExceeded);
      expect(error.rawMessage).toContain("deadline");
      expect(detail).toMatchObject({ reason: Reason.DEADLINE_EXCEEDED });
    }
  });

  test("a deadline that is none is refused", async () => {
    const server = await startServer();
    const client = createClient(InferenceService, transport(server.port));
    const header = name.startsWith("Connect") ? "connect-timeout-ms" : "grpc-timeout";
    const { error, detail } = await faultOf(client.countTokens({}, { headers: { [header]: "soon" } }));
    expect(error.code).toBe(Code.InvalidArgument);
    expect(detail).toMatchObject({ reason: Reason.INVALID_REQUEST, field: header });
  });

  test("malformed protobuf is refused with its place", async () => {
    const server = await startServer();
    const client = createClient(InferenceService, transport(server.port));
    // A text that says it has 5 bytes and has 1.
    const $unknown = [{ no: 1, wireType: 2, data: Uint8Array.of(5, 97) }];
    const headers = { "x-request-id": "mine" };
    const counted = await faultOf(client.countTokens({ ...create(CountTokensRequestSchema), $unknown }, { headers }));
    const streamed = await faultOf(drain(client.generate({ ...create(GenerateRequestSchema), $unknown }, { headers })));
    for (const { error, detail } of [counted, streamed]) {
      expect(error.code).toBe(Code.InvalidArgument);
      expect(error.rawMessage).toMatch(
        /Request in protobuf: model: says at byte 0 that it has 5 bytes, but 1 follow\.$/,
      );
      expect(detail).toMatchObject({ reason: Reason.INVALID_REQUEST, field: "model", callId: "mine" });
    }
  });

  test("a message that inflates beyond the limit is refused and counted", async () => {
    const server = await startServer();
    const send = { sendCompression: compressionGzip, compressMinBytes: 0 };
    const client = createClient(InferenceService, transport(server.port, send));
    expect((await client.countTokens({ model: "m".repeat(90_000) })).promptTokens).toBe(90_000);
    const { error, detail } = await faultOf(client.countTokens({ model: "m".repeat(110_000) }));
    expect(error.code).toBe(Code.ResourceExhausted);
    expect(error.rawMessage).toContain("the limit is 100000 bytes and it has more than that after decompression");
    expect(detail).toMatchObject({ reason: Reason.REQUEST_TOO_LARGE, limit: "100000 bytes" });
    expect(await metrics.text()).toMatch(/bound="message_bytes",service="test"\} 1/);
  });

  test("what only claims to be compressed is refused", async () => {
    const server = await startServer();
    const broken = { ...compressionGzip, compress: (bytes: Uint8Array) => Promise.resolve(new Uint8Array(bytes)) };
    const client = createClient(
      InferenceService,
      transport(server.port, { sendCompression: broken, compressMinBytes: 0 }),
    );
    const { error, detail } = await faultOf(client.countTokens({ model: "m" }));
    expect(error.code).toBe(Code.InvalidArgument);
    expect(error.rawMessage).toContain("no valid gzip data");
    expect(detail).toMatchObject({ reason: Reason.INVALID_REQUEST });
  });
});

describe("JSON that is wrong", () => {
  const bodies: [string, string, string][] = [
    ['{"model":', "", "found the end of the body at line 1 column 10"],
    ['{"model":5}', "model", "model: expected string, got 5"],
    ['{"modle":"m"}', "modle", "CountTokensRequest has no such field; did you mean model?"],
    ["", "", "The request body is empty"],
  ];

  test.each(bodies)("over Connect: %s", async (body, field, message) => {
    const { port } = await startServer();
    const headers = { "content-type": "application/json" };
    const answer = await fetch(`http://127.0.0.1:${port}${countTokensPath}`, { method: "POST", headers, body });
    const error = (await answer.json()) as { message: string; details: { type: string; value: string }[] };
    expect(answer.status).toBe(400);
    expect(error.message).toContain(message);
    const [detail] = error.details;
    expect(detail?.type).toBe(ErrorDetailSchema.typeName);
    expect(fromBinary(ErrorDetailSchema, Buffer.from(detail?.value ?? "", "base64"))).toMatchObject({
      reason: Reason.INVALID_REQUEST,
      field,
    });
  });

  test.each(bodies)("over gRPC and gRPC-Web: %s", async (body, field, message) => {
    const { port } = await startServer();
    const stream = post(session(port), countTokensPath, "application/grpc+json");
    stream.end(envelope(body.length, Buffer.from(body)));
    const trailers = await (await answerOf(stream)).trailers;
    expect(trailers["grpc-status"]).toBe(String(Code.InvalidArgument));
    expect(decodeURIComponent(trailers["grpc-message"] ?? "")).toContain(message);
    const details = Buffer.from(trailers["grpc-status-details-bin"] ?? "", "base64");
    expect(details.includes(ErrorDetailSchema.typeName)).toBe(true);
    expect(details.includes(field)).toBe(true);
    const web = post(session(port), countTokensPath, "application/grpc-web+json");
    web.end(envelope(body.length, Buffer.from(body)));
    const answer = await answerOf(web);
    expect(decodeURIComponent(answer.body)).toContain(`grpc-status: ${Code.InvalidArgument}`);
    expect(decodeURIComponent(answer.body)).toContain(message);
  });
});

describe("an enveloped body", () => {
  test.each([
    [Buffer.alloc(0), Code.Unimplemented, "The request body holds no message; CountTokens takes one."],
    [Buffer.alloc(10), Code.Unimplemented, "CountTokens takes one request message, but the body has more."],
    [envelope(9, Buffer.alloc(2)), Code.InvalidArgument, "ends too early: 7 bytes of its last message are missing."],
    [Buffer.of(4, 0, 0, 0, 0), Code.InvalidArgument, "A request message has the flags 0x4"],
    [Buffer.of(1, 0, 0, 0, 0), Code.Internal, "flagged as compressed, but its encoding is not named"],
  ])("%j is refused", async (body, code, message) => {
    const { port } = await startServer();
    const stream = post(session(port), countTokensPath, "application/grpc");
    stream.end(body);
    const trailers = await (await answerOf(stream)).trailers;
    expect(trailers["grpc-status"]).toBe(String(code));
    expect(decodeURIComponent(trailers["grpc-message"] ?? "")).toContain(message);
  });
});

test("a stream of requests ends at its deadline though its client neither sends nor cancels", async () => {
  const { port } = await startServer();
  const path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
  const stream = post(session(port), path, "application/grpc", { "grpc-timeout": "50m" });
  const trailers = await (await answerOf(stream)).trailers;
  expect(trailers["grpc-status"]).toBe(String(Code.DeadlineExceeded));
  expect(decodeURIComponent(trailers["grpc-message"] ?? "")).toContain("within the 50 ms of its deadline");
});

describe("a client that asks before it sends", () => {
  async function ask(port: number, contentLength: number): Promise<{ first: string; rest: () => Promise<string> }> {
    const socket = tcpConnect(port, "127.0.0.1");
    cleanups.push(() => void socket.destroy());
    socket.write(
      `POST ${countTokensPath} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n` +
        `content-length: ${contentLength}\r\nexpect: 100-continue\r\n\r\n`,
    );
    const [first] = (await once(socket, "data")) as [Buffer];
    return {
      first: first.toString(),
      async rest() {
        socket.end('{"model":"a"}');
        return text(socket);
      },
    };
  }

  test("for too much gets 413 and no 100, and the connection ends", async () => {
    const server = await startServer();
    const { first } = await ask(server.port, maxBodyBytes + 1);
    expect(first).toMatch(/^HTTP\/1\.1 413 /);
    expect(first.toLowerCase()).toContain("connection: close");
    await server.drain(60_000);
    expect(await metrics.text()).toMatch(/bound="message_bytes",service="test"\} 1/);
  });

  test("for what is allowed gets 100, and then its answer", async () => {
    const { port } = await startServer();
    const { first, rest } = await ask(port, 13);
    expect(first).toBe("HTTP/1.1 100 Continue\r\n\r\n");
    expect(await rest()).toMatch(/^HTTP\/1\.1 200 [^]*\{"promptTokens":1\}/);
  });
});

describe("a request that is no RPC call", () => {
  test.each([
    ["GET", {}, 405, "use POST"],
    ["POST", { "content-type": "text/plain" }, 415, 'The content type "text/plain" is none of'],
  ])("of method %s and headers %j is told how to call", async (method, headers, status, message) => {
    const { port } = await startServer();
    const answer = await fetch(`http://127.0.0.1:${port}${countTokensPath}`, {
      method,
      headers,
      body: method === "POST" ? "x" : null,
    });
    expect(answer.status).toBe(status);
    expect(await answer.text()).toContain(message);
  });

  test("in a form for single messages is told that its method streams", async () => {
    const { port } = await startServer();
    const headers = { "content-type": "application/json" };
    const answer = await fetch(`http://127.0.0.1:${port}${generatePath}`, { method: "POST", headers, body: "{}" });
    expect(answer.status).toBe(415);
    const text = await answer.text();
    expect(text).toMatch(/^This method streams, .* "application\/json" is none of application\/connect\+json, /);
  });
});

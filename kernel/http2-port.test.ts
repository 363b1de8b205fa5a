import { once } from "node:events";
import { type ClientHttp2Session, connect as http2Connect, constants } from "node:http2";
import { buffer, text } from "node:stream/consumers";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport, createGrpcWebTransport } from "@connectrpc/connect-node";
import { afterEach, describe, expect, test } from "vitest";
import { InferenceService } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import type { HotMethod } from "#kernel/hot-method.ts";
import { silentLogger } from "#kernel/log.ts";
import { Metrics } from "#kernel/metrics.ts";
import { type RpcServer, type RpcServerOptions, startRpcServer } from "#kernel/rpc-server.ts";
import { type StreamEnd, encodeBlock } from "#kernel/wire/index.ts";

const path = "/helixmesh.inference.v1.InferenceService/CountTokens";
const cleanups: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

const metrics = new Metrics("test");

/** The method that is not hot says that a call has 1 token, a hot one says 2. */
async function startServer(options: Partial<RpcServerOptions>): Promise<RpcServer> {
  const server = await startRpcServer({
    host: "127.0.0.1",
    port: 0,
    services: [InferenceService],
    routes: (router) => router.service(InferenceService, { countTokens: () => ({ promptTokens: 1 }) }),
    health: () => true,
    maxBodyBytes: 100_000,
    logger: silentLogger,
    metrics,
    ...options,
  });
  cleanups.push(() => server.close());
  return server;
}

function session(port: number): ClientHttp2Session {
  const opened = http2Connect(`http://127.0.0.1:${port}`);
  cleanups.push(() => opened.destroy());
  return opened;
}

const headers = encodeBlock([
  [":status", "200"],
  ["content-type", "application/grpc+proto"],
]);
const unauthenticated = encodeBlock([
  [":status", "200"],
  ["content-type", "application/grpc"],
  ["grpc-status", "16"],
]);
const twoTokens = Buffer.of(0, 0, 0, 0, 2, 8, 2);
const countsTwo: HotMethod = (stream) => ({
  onData: (_bytes, start, end) => stream.consumed(end - start),
  onEnd() {
    stream.sendHeaders(headers);
    stream.write(twoTokens);
    stream.end([["grpc-status", "0"]]);
  },
  onClose() {},
});

describe("a hot method", () => {
  test("gets the gRPC calls of its path, and `routes` those of other protocols", async () => {
    const { port } = await startServer({ hot: new Map([[path, countsTwo]]) });
    const baseUrl = `http://127.0.0.1:${port}`;
    const tokens = [];
    for (const transport of [
      createGrpcTransport({ baseUrl }),
      createGrpcWebTransport({ baseUrl, httpVersion: "2" }),
      createConnectTransport({ baseUrl, httpVersion: "2" }),
      createConnectTransport({ baseUrl, httpVersion: "1.1" }),
    ]) {
      tokens.push((await createClient(InferenceService, transport).countTokens({})).promptTokens);
    }
    expect(tokens).toEqual([2, 1, 1, 1]);
  });

  test("may answer at once, and hears that its stream is closed", async () => {
    const ends: StreamEnd[] = [];
    const refuses: HotMethod = (stream) => {
      stream.sendHeaders(unauthenticated, true);
      return { onData() {}, onEnd() {}, onClose: (end) => void ends.push(end) };
    };
    const { port } = await startServer({ hot: new Map([[path, refuses]]) });
    const client = createClient(InferenceService, createGrpcTransport({ baseUrl: `http://127.0.0.1:${port}` }));
    await expect(client.countTokens({})).rejects.toMatchObject({ code: Code.Unauthenticated });
    expect(ends).toEqual([{ kind: "complete" }]);
  });

  test("ends its streams in a drain, in which no more are opened", async () => {
    const asked = Promise.withResolvers<void>();
    const release = Promise.withResolvers<void>();
    const waits: HotMethod = (stream, list) => {
      const listener = countsTwo(stream, list);
      asked.resolve();
      return { ...listener, onEnd: () => void release.promise.then(() => listener.onEnd(undefined)) };
    };
    const server = await startServer({ hot: new Map([[path, waits]]) });
    const over = session(server.port);
    const stream = over.request({ ":method": "POST", ":path": path, "content-type": "application/grpc" });
    stream.end();
    const goaway = once(over, "goaway");
    await asked.promise;
    const drained = server.drain(60_000);
    await goaway;
    release.resolve();
    expect(await buffer(stream)).toEqual(twoTokens);
    await drained;
    expect(server.connections()).toBe(0);
  });
});

describe("a request body that is too large", () => {
  test.each([
    ["gRPC", createGrpcTransport],
    ["Connect", (options: { baseUrl: string }) => createConnectTransport({ ...options, httpVersion: "2" })],
  ])("by far ends over %s as resource exhausted, and the connection goes on", async (_, transport) => {
    const { port } = await startServer({});
    const client = createClient(InferenceService, transport({ baseUrl: `http://127.0.0.1:${port}` }));
    for (let count = 0; count < 3; count++) {
      const failure = await client
        .countTokens({ model: "m".repeat(50_000_000) })
        .catch((error: unknown) => ConnectError.from(error));
      expect(failure).toMatchObject({ code: Code.ResourceExhausted });
      expect((failure as ConnectError).rawMessage).toContain("the limit is 100000 bytes");
    }
    expect((await client.countTokens({})).promptTokens).toBe(1);
  });

  test("is refused unsent when the client asks first", async () => {
    const { port } = await startServer({});
    const ask = (length: string) =>
      session(port).request({
        ":method": "POST",
        ":path": path,
        "content-type": "application/json",
        "content-length": length,
        expect: "100-continue",
      });
    const refused = ask("5000000");
    const [answer] = (await once(refused, "response")) as [Record<string, unknown>];
    expect(answer[":status"]).toBe(413);
    expect(await text(refused)).toContain("the limit is 100000 bytes");
    const welcome = ask("2");
    await once(welcome, "continue");
    welcome.end("{}");
    expect(await text(welcome)).toBe('{"promptTokens":1}');
  });
});

describe("a fallback over HTTP/2", () => {
  test("answers HEAD without its body, and leaves out what is for HTTP/1.1 only", async () => {
    const { port } = await startServer({
      fallback(_, response) {
        response.setHeader("Connection", "keep-alive");
        response.setHeader("X-Mine", "yes");
        response.end("a body");
      },
    });
    const stream = session(port).request({ ":method": "HEAD", ":path": "/" });
    const [answer, flags] = (await once(stream, "response")) as [Record<string, unknown>, number];
    expect(answer).toMatchObject({ ":status": 200, "x-mine": "yes", date: expect.stringContaining("GMT") });
    expect(answer).not.toHaveProperty("connection");
    expect(flags & constants.NGHTTP2_FLAG_END_STREAM).toBeGreaterThan(0);
  });

  test("reads repeated fields as one, and the authority as its host", async () => {
    const { port } = await startServer({
      fallback: ({ headers }, response) => void response.end([headers["x-a"], headers.cookie, headers.host].join("|")),
    });
    const stream = session(port).request({ ":path": "/", "x-a": ["1", "2"], cookie: ["a=1", "b=2"] });
    expect(await text(stream)).toBe(`1, 2|a=1; b=2|127.0.0.1:${port}`);
  });

  test("has a client that reads slowly wait, and gets the whole answer to it", async () => {
    const piece = "x".repeat(50_000);
    const { port } = await startServer({
      async fallback(_, response) {
        for (let count = 0; count < 100; count++) if (!response.write(piece)) await once(response as never, "drain");
        response.end();
      },
    });
    const stream = session(port).request({ ":path": "/" });
    expect(await text(stream)).toHaveLength(5_000_000);
  });
});

test("a bound of HTTP/2 itself is counted", async () => {
  const { port } = await startServer({ maxConcurrentStreams: 1, fallback() {} });
  const over = session(port);
  const refused = [over.request({ ":path": "/" }), over.request({ ":path": "/" })].at(-1);
  refused?.on("error", () => {});
  await once(refused ?? over, "close").catch(() => {});
  expect(refused?.rstCode).toBe(constants.NGHTTP2_REFUSED_STREAM);
  expect(await metrics.text()).toMatch(/bound="max_concurrent_streams",service="test"\} 1/);
});

import { once } from "node:events";
import { Agent, type IncomingMessage, type ServerResponse, request as httpRequest } from "node:http";
import { connect as http2Connect } from "node:http2";
import { type AddressInfo, connect as tcpConnect, createServer as createTcpServer } from "node:net";
import { buffer, text } from "node:stream/consumers";
import { fromBinary } from "@bufbuild/protobuf";
import { FileDescriptorProtoSchema } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, type Transport, createClient } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport, createGrpcWebTransport } from "@connectrpc/connect-node";
import { createConnectTransport as webConnect, createGrpcWebTransport as webGrpcWeb } from "@connectrpc/connect-web";
import { Client, type ServiceError, credentials } from "@grpc/grpc-js";
import { afterEach, describe, expect, test } from "vitest";
import { Health, HealthCheckResponse_ServingStatus as Status } from "#gen/grpc/health/v1/health_pb.ts";
import { ServerReflection } from "#gen/grpc/reflection/v1/reflection_pb.ts";
import { ServerReflection as ServerReflectionAlpha } from "#gen/grpc/reflection/v1alpha/reflection_pb.ts";
import { ErrorDetailSchema, Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { InferenceService } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { silentLogger } from "#kernel/log.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { Metrics } from "#kernel/metrics.ts";
import { type RpcServer, type RpcServerOptions, startRpcServer } from "#kernel/rpc-server.ts";
import { testCertificate, testKey } from "#kernel/test-certificate.ts";

const maxBodyBytes = 100_000;
const cleanups: (() => Promise<void> | void)[] = [];
const metrics = new Metrics("test");

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

/** A model's name is what the handler does: fail, wait for `release`, or answer the length of the name. */
let release = Promise.withResolvers<void>();
let entered = Promise.withResolvers<void>();
let aborted = Promise.withResolvers<unknown>();

async function startServer(options: Partial<RpcServerOptions> = {}): Promise<RpcServer> {
  release = Promise.withResolvers();
  entered = Promise.withResolvers();
  aborted = Promise.withResolvers();
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
        async countTokens({ model }, context) {
          if (model === "unknown") throw new MeshError(Reason.MODEL_NOT_FOUND, "No model unknown; try: a, b.");
          if (model === "defect") throw new Error("a secret of ours");
          if (model === "wait") {
            context.signal.addEventListener("abort", () => aborted.resolve(context.signal.reason));
            entered.resolve();
            await release.promise;
          }
          return { promptTokens: model.length };
        },
        async *generate({ model }) {
          yield { event: { case: "started", value: {} } };
          entered.resolve();
          if (model === "wait") await release.promise;
          yield { event: { case: "finished", value: {} } };
          if (model === "unknown") throw new MeshError(Reason.NODE_LOST, "The node is gone; call again.");
        },
      });
    },
    ...options,
  });
  cleanups.push(() => server.close());
  return server;
}

function transports(port: number): [string, Transport][] {
  const baseUrl = `http://127.0.0.1:${port}`;
  return [
    ["gRPC", createGrpcTransport({ baseUrl })],
    ["gRPC-Web over HTTP/1.1", createGrpcWebTransport({ baseUrl, httpVersion: "1.1" })],
    ["gRPC-Web over HTTP/2", createGrpcWebTransport({ baseUrl, httpVersion: "2" })],
    ["gRPC-Web of a browser", webGrpcWeb({ baseUrl })],
    ["Connect JSON over HTTP/1.1", createConnectTransport({ baseUrl, httpVersion: "1.1" })],
    ["Connect JSON over HTTP/2", createConnectTransport({ baseUrl, httpVersion: "2" })],
    ["Connect binary over HTTP/1.1", createConnectTransport({ baseUrl, httpVersion: "1.1", useBinaryFormat: true })],
    ["Connect binary over HTTP/2", createConnectTransport({ baseUrl, httpVersion: "2", useBinaryFormat: true })],
    ["Connect JSON of a browser", webConnect({ baseUrl })],
    ["Connect binary of a browser", webConnect({ baseUrl, useBinaryFormat: true })],
  ];
}
const protocols = transports(1).map(([name]) => name);

function transport(server: RpcServer, name: string): Transport {
  const found = transports(server.port).find(([candidate]) => candidate === name);
  if (!found) throw new Error(`no transport ${name}`);
  return found[1];
}

async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const collected: T[] = [];
  for await (const item of items) collected.push(item);
  return collected;
}

async function failureOf(promise: Promise<unknown>): Promise<ConnectError> {
  return ConnectError.from(
    await promise.then(
      () => "no failure",
      (error: unknown) => error,
    ),
  );
}

async function http1(
  port: number,
  options: { path: string; method?: string; type?: string; agent?: Agent; body?: string },
) {
  const { path, method = "GET", type = "application/json", agent, body } = options;
  const request = httpRequest({ host: "127.0.0.1", port, path, method, ...(agent && { agent }) });
  request.setHeader("content-type", type);
  request.on("error", () => {}); // Before a response `once` has it; after one it is the server's to close.
  request.end(body ?? "");
  const [response] = (await once(request, "response")) as [IncomingMessage];
  return { status: response.statusCode, headers: response.headers, text: (await buffer(response)).toString() };
}

async function http2Get(port: number, path: string): Promise<{ status: number; text: string }> {
  const session = http2Connect(`http://127.0.0.1:${port}`);
  const stream = session.request({ ":path": path });
  const [headers] = (await once(stream, "response")) as [{ ":status": number }];
  const text = (await buffer(stream)).toString();
  session.close();
  return { status: headers[":status"], text };
}

describe.each(protocols)("%s", (protocol) => {
  test("answers a unary call and a stream", async () => {
    const client = createClient(InferenceService, transport(await startServer(), protocol));
    expect((await client.countTokens({ model: "four" })).promptTokens).toBe(4);
    const events = await collect(client.generate({ model: "a" }));
    expect(events.map(({ event }) => event.case)).toEqual(["started", "finished"]);
  });

  test("sends a fault with its code, message and detail", async () => {
    const client = createClient(InferenceService, transport(await startServer(), protocol));
    const failure = await failureOf(client.countTokens({ model: "unknown" }));
    expect(failure.code).toBe(Code.NotFound);
    expect(failure.rawMessage).toBe("No model unknown; try: a, b.");
    expect(failure.findDetails(ErrorDetailSchema)[0]).toMatchObject({ reason: Reason.MODEL_NOT_FOUND });
  });

  test("sends a fault at the end of a stream", async () => {
    const client = createClient(InferenceService, transport(await startServer(), protocol));
    const failure = await failureOf(collect(client.generate({ model: "unknown" })));
    expect(failure.code).toBe(Code.Unavailable);
    expect(failure.findDetails(ErrorDetailSchema)[0]).toMatchObject({ reason: Reason.NODE_LOST, retryable: true });
  });

  test("keeps the cause of a defect to itself", async () => {
    const client = createClient(InferenceService, transport(await startServer(), protocol));
    const failure = await failureOf(client.countTokens({ model: "defect" }));
    expect(failure.code).toBe(Code.Internal);
    expect(failure.message).not.toContain("secret");
  });

  test("refuses a message over the limit and names the limit", async () => {
    const client = createClient(InferenceService, transport(await startServer(), protocol));
    const failure = await failureOf(client.countTokens({ model: "m".repeat(maxBodyBytes) }));
    expect(failure.code).toBe(Code.ResourceExhausted);
    expect(failure.rawMessage).toContain(`the limit is ${maxBodyBytes} bytes`);
    expect(failure.findDetails(ErrorDetailSchema)[0]).toMatchObject({ reason: Reason.REQUEST_TOO_LARGE });
  });
});

describe("grpc-js", () => {
  function call(server: RpcServer, method: string, body: Uint8Array): Promise<ServiceError | null> {
    const client = new Client(`127.0.0.1:${server.port}`, credentials.createInsecure());
    cleanups.push(() => client.close());
    const path = `/helixmesh.inference.v1.InferenceService/${method}`;
    return new Promise((resolve) => {
      client.makeUnaryRequest(
        path,
        (bytes: Buffer) => bytes,
        (bytes) => bytes,
        Buffer.from(body),
        resolve,
      );
    });
  }

  test("gets an answer", async () => {
    expect(await call(await startServer(), "CountTokens", new Uint8Array())).toBeNull();
  });

  test("shows a message with commas and colons as it was written", async () => {
    const failure = await call(await startServer(), "CountTokens", Buffer.from("\n\u0007unknown"));
    expect(failure).toMatchObject({ code: Code.NotFound, details: "No model unknown; try: a, b." });
  });

  test("gets UNIMPLEMENTED for an unknown method, with a fallback too", async () => {
    const server = await startServer({ fallback: (_, response) => void response.end("fallback") });
    expect(await call(server, "Nope", new Uint8Array())).toMatchObject({ code: Code.Unimplemented });
  });

  test("gets RESOURCE_EXHAUSTED for 20 MB", async () => {
    const failure = await call(await startServer(), "CountTokens", new Uint8Array(20_000_000));
    expect(failure).toMatchObject({ code: Code.ResourceExhausted });
    expect(failure?.details).toContain(`the limit is ${maxBodyBytes} bytes`);
  });
});

describe("plain HTTP", () => {
  test("gets a 404 in JSON for an unknown path", async () => {
    const { port } = await startServer();
    const first = await http1(port, { path: "/nope" });
    expect(first).toMatchObject({ status: 404, headers: { "content-type": "application/json" } });
    expect(JSON.parse(first.text)).toMatchObject({ code: "unimplemented" });
    const second = await http2Get(port, "/nope");
    expect(second.status).toBe(404);
    expect(second.text).toBe(first.text);
  });

  test("gets an error of Connect for an RPC method that does not exist, also where a fallback is", async () => {
    const { port } = await startServer({ fallback: (_, response) => void response.end("fallback") });
    const path = "/helixmesh.inference.v1.InferenceService/Nope";
    const call = (type: string) => http1(port, { path, method: "POST", type, body: "{}" });
    for (const type of ["application/json", "application/proto", "application/connect+json"]) {
      const answer = await call(type);
      expect(answer.status).toBe(404);
      expect(JSON.parse(answer.text)).toMatchObject({ code: "unimplemented", message: expect.stringContaining(path) });
    }
    expect((await call("text/plain")).text).toBe("fallback");
  });

  test("reaches the fallback on every path that is no RPC, query and all", async () => {
    const { port } = await startServer({
      fallback: (request, response) => void response.end(`${request.url} ${request.httpVersion}`),
    });
    expect((await http1(port, { path: "/v1/models?a=b" })).text).toBe("/v1/models?a=b 1.1");
    expect((await http2Get(port, "/v1/models?a=b")).text).toBe("/v1/models?a=b 2.0");
  });

  test("gets an answer for a body over the limit although it sends all of it", async () => {
    const { port } = await startServer();
    const path = "/helixmesh.inference.v1.InferenceService/CountTokens";
    const answer = await http1(port, { path, method: "POST", body: "a".repeat(5_000_000) });
    expect(answer.status).toBe(429);
    expect(answer.text).toContain(`the limit is ${maxBodyBytes} bytes`);
  });

  test("is seen first by what stands before, which may answer", async () => {
    const { port } = await startServer({
      before(request, response) {
        response.setHeader("x-seen", "yes");
        if (request.url !== "/stop") return false;
        response.end("stopped");
        return true;
      },
    });
    expect(await http1(port, { path: "/stop" })).toMatchObject({ text: "stopped", headers: { "x-seen": "yes" } });
    expect(await http1(port, { path: "/nope" })).toMatchObject({ status: 404, headers: { "x-seen": "yes" } });
  });

  test("gets a 400 for malformed JSON", async () => {
    const { port } = await startServer();
    const path = "/helixmesh.inference.v1.InferenceService/CountTokens";
    const answer = await http1(port, { path, method: "POST", body: "{" });
    expect(answer.status).toBe(400);
    expect(JSON.parse(answer.text)).toMatchObject({ code: "invalid_argument" });
  });
});

describe("the first bytes", () => {
  test("may be an HTTP/2 preface that comes byte by byte", async () => {
    const { port } = await startServer();
    const socket = tcpConnect(port, "127.0.0.1");
    cleanups.push(() => void socket.destroy());
    socket.setNoDelay(true);
    for (const byte of Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")) {
      socket.write(Buffer.of(byte));
      await new Promise(setImmediate);
    }
    // An empty SETTINGS frame; the server's own SETTINGS frame answers.
    socket.write(Buffer.of(0, 0, 0, 4, 0, 0, 0, 0, 0));
    const [answer] = (await once(socket, "data")) as [Buffer];
    expect(answer[3]).toBe(4);
  });

  test("may be an HTTP/1.1 method that begins like the preface", async () => {
    const { port } = await startServer({ fallback: (request, response) => void response.end(request.method ?? "") });
    const socket = tcpConnect(port, "127.0.0.1");
    cleanups.push(() => void socket.destroy());
    socket.write("P");
    await new Promise(setImmediate);
    socket.write("ROPFIND / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    expect((await buffer(socket)).toString()).toMatch(/^HTTP\/1.1 200 OK[^]*PROPFIND/);
  });

  test("must come in time", async () => {
    const server = await startServer({ sniffTimeoutMs: 20 });
    const socket = tcpConnect(server.port, "127.0.0.1");
    socket.write("PRI * HT");
    await once(socket.resume(), "close");
    expect(await metrics.text()).toMatch(/helixmesh_rpc_bound_reached_total\{bound="sniff_timeout",service="test"\} 1/);
  });

  test("leave nothing behind when the peer goes before they come", async () => {
    const server = await startServer();
    const socket = tcpConnect(server.port, "127.0.0.1");
    socket.end("PR");
    await once(socket.resume(), "close");
    await server.drain(60_000);
    expect(server.connections()).toBe(0);
  });
});

test("closes connections beyond the bound", async () => {
  const { port } = await startServer({ maxConnections: 1 });
  const first = tcpConnect(port, "127.0.0.1");
  cleanups.push(() => void first.destroy());
  await once(first, "connect");
  const second = tcpConnect(port, "127.0.0.1");
  second.on("error", () => {}); // Closed or reset, as the kernel sees fit.
  await once(second.resume(), "close");
  expect(await metrics.text()).toMatch(/bound="max_connections",service="test"\} 1/);
});

test("rejects a port in use", async () => {
  const { port } = await startServer();
  await expect(startServer({ port })).rejects.toThrow("EADDRINUSE");
});

describe("TLS", () => {
  const tls = { cert: Buffer.from(testCertificate), key: Buffer.from(testKey) };
  const nodeOptions = { ca: testCertificate };

  test("serves HTTP/2 and HTTP/1.1 by ALPN", async () => {
    const { port } = await startServer({ tls });
    const baseUrl = `https://127.0.0.1:${port}`;
    const grpc = createClient(InferenceService, createGrpcTransport({ baseUrl, nodeOptions }));
    expect((await grpc.countTokens({ model: "ab" })).promptTokens).toBe(2);
    const connect = createConnectTransport({ baseUrl, httpVersion: "1.1", nodeOptions });
    expect((await createClient(InferenceService, connect).countTokens({ model: "ab" })).promptTokens).toBe(2);
  });

  test("tells a client without it to use it", async () => {
    const server = await startServer({ tls });
    const answer = await http1(server.port, { path: "/" });
    expect(answer).toMatchObject({ status: 400, headers: { connection: "close" } });
    expect(answer.text).toContain("call it with https");
    expect(server.connections()).toBe(0);
  });

  test("must begin in time", async () => {
    const server = await startServer({ tls, sniffTimeoutMs: 20 });
    const socket = tcpConnect(server.port, "127.0.0.1");
    await once(socket.resume(), "close");
  });

  test("may begin with a first byte that comes alone", async () => {
    const server = await startServer({ tls });
    const proxy = createTcpServer((client) => {
      const upstream = tcpConnect({ port: server.port, host: "127.0.0.1", noDelay: true });
      for (const socket of [client, upstream]) socket.on("error", () => {}); // Cut at the end of the test.
      client.once("data", (hello: Buffer) => {
        upstream.write(hello.subarray(0, 1), () => {
          upstream.write(hello.subarray(1));
          client.pipe(upstream).pipe(client);
        });
      });
    }).listen(0, "127.0.0.1");
    cleanups.push(() => void proxy.close());
    await once(proxy, "listening");
    const baseUrl = `https://127.0.0.1:${(proxy.address() as AddressInfo).port}`;
    const grpc = createClient(InferenceService, createGrpcTransport({ baseUrl, nodeOptions }));
    expect((await grpc.countTokens({ model: "ab" })).promptTokens).toBe(2);
  });
});

describe("health", () => {
  test("follows the service", async () => {
    let healthy = true;
    const server = await startServer({ health: () => healthy });
    const client = createClient(Health, transport(server, "gRPC"));
    expect((await client.check({})).status).toBe(Status.SERVING);
    const service = InferenceService.typeName;
    healthy = false;
    expect((await client.check({ service })).status).toBe(Status.NOT_SERVING);
    expect((await client.list({})).statuses[service]?.status).toBe(Status.NOT_SERVING);
  });

  test("does not know other services", async () => {
    const client = createClient(Health, transport(await startServer(), "gRPC"));
    expect((await failureOf(client.check({ service: "nope" }))).code).toBe(Code.NotFound);
    const watch = client.watch({ service: "nope" })[Symbol.asyncIterator]();
    expect((await watch.next()).value).toMatchObject({ status: Status.SERVICE_UNKNOWN });
    await watch.return?.();
  });

  test("tells its watchers of a drain and lets it end", async () => {
    const server = await startServer();
    const client = createClient(Health, transport(server, "gRPC"));
    const watch = client.watch({})[Symbol.asyncIterator]();
    expect((await watch.next()).value).toMatchObject({ status: Status.SERVING });
    const drained = server.drain(60_000);
    expect((await watch.next()).value).toMatchObject({ status: Status.NOT_SERVING });
    expect((await watch.next()).done).toBe(true);
    await drained;
  });

  test("is open where interceptors refuse", async () => {
    const refuse = () => () => Promise.reject(new MeshError(Reason.INVALID_API_KEY, "no key"));
    const server = await startServer({ interceptors: [refuse] });
    const inference = createClient(InferenceService, transport(server, "gRPC"));
    expect((await failureOf(inference.countTokens({}))).code).toBe(Code.Unauthenticated);
    expect((await createClient(Health, transport(server, "gRPC")).check({})).status).toBe(Status.SERVING);
  });
});

describe.each([
  ["v1", ServerReflection],
  ["v1alpha", ServerReflectionAlpha],
])("reflection %s", (_, service) => {
  type Question = { case: "listServices" | "fileByFilename" | "fileContainingSymbol"; value: string };

  async function ask(...questions: Question[]) {
    const client = createClient<typeof ServerReflection | typeof ServerReflectionAlpha>(
      service,
      transport(await startServer(), "gRPC"),
    );
    async function* requests() {
      for (const messageRequest of questions) yield { host: "h", messageRequest };
    }
    return collect(client.serverReflectionInfo(requests()));
  }

  function fileNames(answer: Awaited<ReturnType<typeof ask>>[number] | undefined): string[] {
    const response = answer?.messageResponse;
    const files = response?.case === "fileDescriptorResponse" ? response.value.fileDescriptorProto : [];
    return files.map((bytes) => fromBinary(FileDescriptorProtoSchema, bytes).name);
  }

  test("lists the services", async () => {
    const [answer] = await ask({ case: "listServices", value: "" });
    expect(answer?.messageResponse.value).toMatchObject({
      service: [
        { name: "grpc.health.v1.Health" },
        { name: "grpc.reflection.v1.ServerReflection" },
        { name: "grpc.reflection.v1alpha.ServerReflection" },
        { name: "helixmesh.inference.v1.InferenceService" },
      ],
    });
  });

  test("gives the file of a symbol of each kind, then what it imports, each once", async () => {
    const pkg = "helixmesh.inference.v1";
    const names = ["InferenceService", "InferenceService.Generate", "CountTokensRequest.model", "Role"];
    const answers = await ask(
      ...names.map((name): Question => ({ case: "fileContainingSymbol", value: `${pkg}.${name}` })),
    );
    expect(answers).toHaveLength(names.length);
    const expected = [
      "helixmesh/inference/v1/inference.proto",
      "helixmesh/type/v1/type.proto",
      "helixmesh/error/v1/error.proto",
    ];
    for (const answer of answers) expect(fileNames(answer)).toEqual(expect.arrayContaining(expected));
    for (const answer of answers) expect(fileNames(answer)[0]).toBe(expected[0]);
    for (const answer of answers) expect(new Set(fileNames(answer)).size).toBe(fileNames(answer).length);
  });

  test("gives a file by its name, and NOT_FOUND for what it does not know", async () => {
    const [file, noFile, noSymbol] = await ask(
      { case: "fileByFilename", value: "helixmesh/error/v1/error.proto" },
      { case: "fileByFilename", value: "nope.proto" },
      { case: "fileContainingSymbol", value: "nope.Nope" },
    );
    expect(fileNames(file)).toEqual(["helixmesh/error/v1/error.proto"]);
    expect(file?.originalRequest?.messageRequest.value).toBe("helixmesh/error/v1/error.proto");
    expect(noFile?.messageResponse).toMatchObject({ case: "errorResponse", value: { errorCode: Code.NotFound } });
    expect(noSymbol?.messageResponse).toMatchObject({ case: "errorResponse", value: { errorCode: Code.NotFound } });
  });
});

describe("drain", () => {
  test.each(["gRPC", "Connect JSON over HTTP/1.1", "Connect JSON over HTTP/2"])(
    "lets a call over %s end",
    async (name) => {
      const server = await startServer();
      const answer = createClient(InferenceService, transport(server, name)).countTokens({ model: "wait" });
      await entered.promise;
      const drained = server.drain(60_000);
      release.resolve();
      expect((await answer).promptTokens).toBe(4);
      await drained;
      expect(server.connections()).toBe(0);
    },
  );

  test("lets a stream that has begun over HTTP/1.1 end", async () => {
    const server = await startServer();
    const client = createClient(InferenceService, transport(server, "Connect JSON over HTTP/1.1"));
    const stream = client.generate({ model: "wait" })[Symbol.asyncIterator]();
    await stream.next();
    const drained = server.drain(60_000);
    release.resolve();
    expect((await stream.next()).value?.event.case).toBe("finished");
    expect((await stream.next()).done).toBe(true);
    await drained;
  });

  test("closes idle keep-alive connections", async () => {
    const server = await startServer({ fallback: (_, response) => void response.end("x") });
    const agent = new Agent({ keepAlive: true });
    cleanups.push(() => agent.destroy());
    await http1(server.port, { path: "/", agent });
    expect(server.connections()).toBe(1);
    await server.drain(60_000);
    expect(server.connections()).toBe(0);
  });

  test("answers over HTTP/1.1 what a client sent that knew of no drain, and then closes the connection", async () => {
    const begun = Promise.withResolvers<ServerResponse>();
    const server = await startServer({
      fallback(request, response) {
        if (request.url === "/next") return void response.end("next");
        response.write("begun");
        begun.resolve(response as ServerResponse);
      },
    });
    const socket = tcpConnect(server.port, "127.0.0.1").setEncoding("utf8");
    socket.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    const response = await begun.promise;
    expect(String(await once(socket, "data"))).toContain("Connection: keep-alive");
    const drained = server.drain(60_000);
    const rest = text(socket);
    response.end();
    socket.write("GET /next HTTP/1.1\r\nhost: a\r\n\r\n");
    expect(await rest).toMatch(/Connection: close[^]*next/);
    await drained;
  });

  test("tells HTTP/2 clients to go", async () => {
    const server = await startServer();
    const session = http2Connect(`http://127.0.0.1:${server.port}`);
    await once(session, "connect");
    // The server knows the session once its settings arrived.
    await once(session, "remoteSettings");
    const goaway = once(session, "goaway");
    await server.drain(60_000);
    expect((await goaway)[0]).toBe(0);
  });

  test("closes a connection that has said nothing yet", async () => {
    const server = await startServer();
    const socket = tcpConnect(server.port, "127.0.0.1");
    await once(socket, "connect");
    const closed = once(socket.resume(), "close");
    await expect.poll(() => server.connections()).toBe(1);
    await server.drain(60_000);
    await closed;
  });

  test("cuts a TLS handshake that does not go on", async () => {
    const server = await startServer({ tls: { cert: Buffer.from(testCertificate), key: Buffer.from(testKey) } });
    const socket = tcpConnect(server.port, "127.0.0.1");
    await once(socket, "connect");
    const closed = once(socket.resume(), "close");
    await server.drain(20);
    await closed;
  });

  test("refuses new connections", async () => {
    const server = await startServer();
    await server.drain(60_000);
    await expect(http1(server.port, { path: "/" })).rejects.toThrow("ECONNREFUSED");
  });

  test("cuts what outlasts the timeout", async () => {
    const server = await startServer();
    const answer = createClient(InferenceService, transport(server, "gRPC")).countTokens({ model: "wait" });
    const failure = failureOf(answer);
    await entered.promise;
    await server.drain(10);
    expect(await aborted.promise).toBeInstanceOf(Error);
    expect(await failure).toBeInstanceOf(ConnectError);
    expect(server.connections()).toBe(0);
    release.resolve();
  });

  test("may be asked for twice", async () => {
    const server = await startServer();
    await Promise.all([server.drain(60_000), server.drain(60_000)]);
    await server.close();
  });
});

test("aborts the handler when the client goes away", async () => {
  const server = await startServer();
  const leaving = new AbortController();
  const client = createClient(InferenceService, transport(server, "gRPC"));
  const failure = failureOf(client.countTokens({ model: "wait" }, { signal: leaving.signal }));
  await entered.promise;
  leaving.abort();
  expect((await failure).code).toBe(Code.Canceled);
  await aborted.promise;
  release.resolve();
});

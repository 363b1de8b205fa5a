import { once } from "node:events";
import { request as httpRequest } from "node:http";
import { connect as http2Connect } from "node:http2";
import { text } from "node:stream/consumers";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { afterEach, beforeEach, expect, test } from "vitest";
import { Health } from "#gen/grpc/health/v1/health_pb.ts";
import { ServerReflection } from "#gen/grpc/reflection/v1/reflection_pb.ts";
import { ErrorDetailSchema, Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { InferenceService } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { silentLogger } from "#kernel/log.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { Metrics } from "#kernel/metrics.ts";
import { type RpcServer, startRpcServer } from "#kernel/rpc-server.ts";

const path = "/helixmesh.inference.v1.InferenceService/CountTokens";
let server: RpcServer;
let handled: string[];

beforeEach(async () => {
  handled = [];
  server = await startRpcServer({
    host: "127.0.0.1",
    port: 0,
    services: [InferenceService],
    routes: (router) =>
      router.service(InferenceService, {
        countTokens({ model }) {
          handled.push(model);
          return { promptTokens: 1 };
        },
        async *generate({ model }) {
          handled.push(model);
          yield { event: { case: "started", value: {} } };
        },
      }),
    async authorize({ requestHeader }) {
      await Promise.resolve();
      if (requestHeader.get("authorization") === "defect") throw new Error("a secret of ours");
      if (requestHeader.get("authorization") !== "good") throw new MeshError(Reason.INVALID_API_KEY, "No such key.");
    },
    health: () => true,
    maxBodyBytes: 100_000,
    logger: silentLogger,
    metrics: new Metrics("test"),
  });
});
afterEach(() => server.close());

const grpc = () => createGrpcTransport({ baseUrl: `http://127.0.0.1:${server.port}` });

async function drain(stream: AsyncIterable<unknown>): Promise<void> {
  for await (const _ of stream);
}

async function faultOf(promise: Promise<unknown>): Promise<ConnectError> {
  return promise.then(
    () => Promise.reject(new Error("no failure")),
    (error: unknown) => ConnectError.from(error),
  );
}

test("a call of an unknown caller is refused with our detail before its handler runs", async () => {
  const client = createClient(InferenceService, grpc());
  const headers = { "x-request-id": "mine" };
  for (const call of [client.countTokens({}, { headers }), drain(client.generate({}, { headers }))]) {
    const error = await faultOf(call);
    expect(error.code).toBe(Code.Unauthenticated);
    expect(error.findDetails(ErrorDetailSchema)[0]).toMatchObject({ reason: Reason.INVALID_API_KEY, callId: "mine" });
  }
  expect(handled).toEqual([]);
  const good = { headers: { authorization: "good" } };
  await client.countTokens({ model: "a" }, good);
  await drain(client.generate({ model: "b" }, good));
  expect(handled).toEqual(["a", "b"]);
});

test("a defect of who decides is internal, and its text stays here", async () => {
  const client = createClient(InferenceService, grpc());
  const error = await faultOf(client.countTokens({}, { headers: { authorization: "defect" } }));
  expect(error.code).toBe(Code.Internal);
  expect(error.message).not.toContain("secret");
});

test("an unknown caller is refused while its body has not come, over HTTP/2", async () => {
  const session = http2Connect(`http://127.0.0.1:${server.port}`);
  const stream = session.request({ ":method": "POST", ":path": path, "content-type": "application/grpc" });
  // The head of a message, of which nothing follows.
  stream.write(Buffer.of(0, 0, 0, 100, 0));
  const [trailers] = (await once(stream.resume(), "trailers")) as [Record<string, string>];
  expect(trailers["grpc-status"]).toBe(String(Code.Unauthenticated));
  session.destroy();
});

test("an unknown caller is told so with 30 MB to send, which no client on node:http2 could hear while it holds them", async () => {
  const client = createClient(InferenceService, grpc());
  const error = await faultOf(client.countTokens({ model: "m".repeat(30_000_000) }));
  expect(error.code).toBe(Code.Unauthenticated);
  expect(handled).toEqual([]);
});

test("an unknown caller is refused while its body has not come, over HTTP/1.1", async () => {
  const headers = { "content-type": "application/json", "content-length": "4000000" };
  const request = httpRequest({ port: server.port, path, method: "POST", headers });
  request.on("error", () => {});
  request.flushHeaders();
  const [response] = (await once(request, "response")) as [import("node:http").IncomingMessage];
  expect(response.statusCode).toBe(401);
  expect(await text(response)).toContain("No such key.");
  request.destroy();
});

test("health and reflection are open to all", async () => {
  await createClient(Health, grpc()).check({});
  async function* requests() {
    yield { messageRequest: { case: "listServices" as const, value: "" } };
  }
  await drain(createClient(ServerReflection, grpc()).serverReflectionInfo(requests()));
});

import { Client as GrpcClient, Metadata, credentials, status } from "@grpc/grpc-js";
import { fromBinary, toBinary, create } from "@bufbuild/protobuf";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Health, HealthCheckResponse_ServingStatus } from "#gen/grpc/health/v1/health_pb.ts";
import { ServerReflection } from "#gen/grpc/reflection/v1/reflection_pb.ts";
import {
  KeyService,
  ListModelsRequestSchema,
  ListModelsResponseSchema,
  ModelService,
} from "#gen/helixmesh/control/v1/control_pb.ts";
import { DiscoveryService } from "#gen/helixmesh/discovery/v1/discovery_pb.ts";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { NodeService } from "#gen/helixmesh/node/v1/node_pb.ts";
import { KeyRole } from "#gen/helixmesh/type/v1/type_pb.ts";
import { createApiKey } from "#kernel/api-key.ts";
import { type TestControlPlane, refusal, startTestControlPlane } from "./test-control-plane.ts";

let plane: TestControlPlane;
beforeAll(async () => {
  plane = await startTestControlPlane();
});
afterAll(() => plane.stop());

const roles = ["inference", "operator", "router", "node"] as const;

const calls = {
  operator: (token: string) => plane.client(ModelService, token).listModels({}),
  router: (token: string) => plane.client(DiscoveryService, token).reportUsage({ routerId: "r" }),
  node: (token: string) => plane.client(NodeService, token).register({ name: "a", linkAddress: "h:1", engines: [1] }),
};

describe.each(["operator", "router", "node"] as const)("a call for role %s", (wanted) => {
  test("is served to a key of that role", async () => {
    await expect(calls[wanted](plane.keys[wanted])).resolves.toBeDefined();
  });

  test.each(roles.filter((role) => role !== wanted))("is refused to a key of role %s", async (role) => {
    expect(await refusal(calls[wanted](plane.keys[role]))).toMatchObject({ reason: Reason.PERMISSION_DENIED });
  });

  test.each([
    ["no key", ""],
    ["a key of another form", "sk-12345"],
    ["an unknown key", createApiKey().text],
  ])("is refused to %s", async (_, token) => {
    expect(await refusal(calls[wanted](token))).toMatchObject({ reason: Reason.INVALID_API_KEY });
  });

  test("is refused to a known id with another secret", async () => {
    const wrong = `${plane.keys[wanted].slice(0, -48)}${"0".repeat(48)}`;
    expect(await refusal(calls[wanted](wrong))).toMatchObject({ reason: Reason.INVALID_API_KEY });
  });
});

test("a watch is refused before its first message", async () => {
  const watch = plane.client(DiscoveryService, plane.keys.operator).watch({ routerId: "r" });
  const first = watch[Symbol.asyncIterator]().next();
  expect(await refusal(first)).toMatchObject({ reason: Reason.PERMISSION_DENIED });
});

test("a revoked key is refused at once", async () => {
  const keys = plane.client(KeyService, plane.keys.operator);
  const { key, secret } = await keys.createKey({ name: "short-lived", role: KeyRole.OPERATOR });
  await calls.operator(secret);
  await keys.revokeKey({ keyId: key?.keyId ?? "" });
  await keys.revokeKey({ keyId: key?.keyId ?? "" });
  await expect
    .poll(
      () =>
        calls.operator(secret).then(
          () => "served",
          () => "refused",
        ),
      { timeout: 20_000 },
    )
    .toBe("refused");
});

test("the status of a refusal is 401 or 403 in JSON", async () => {
  const path = "helixmesh.control.v1.KeyService/ListKeys";
  expect(await plane.json(path, {}, "")).toMatchObject({ status: 401, body: { code: "unauthenticated" } });
  expect(await plane.json(path, {}, plane.keys.router)).toMatchObject({
    status: 403,
    body: { code: "permission_denied" },
  });
});

describe("without a key", () => {
  test("health answers for the port and for each service", async () => {
    const health = plane.client(Health, "");
    for (const service of ["", ModelService.typeName, NodeService.typeName]) {
      expect((await health.check({ service })).status).toBe(HealthCheckResponse_ServingStatus.SERVING);
    }
  });

  test("reflection lists the services", async () => {
    const reflection = plane.client(ServerReflection, "");
    async function* ask() {
      yield { messageRequest: { case: "listServices" as const, value: "" } };
    }
    const texts: string[] = [];
    for await (const { messageResponse } of reflection.serverReflectionInfo(ask())) {
      texts.push(JSON.stringify(messageResponse.value));
    }
    expect(texts.join("\n")).toContain("helixmesh.control.v1.DeploymentService");
  });
});

describe("grpc-js", () => {
  const path = "/helixmesh.control.v1.ModelService/ListModels";

  function listModels(token: string): Promise<{ code: number; models?: number }> {
    const client = new GrpcClient(plane.url.replace("http://", ""), credentials.createInsecure());
    const metadata = new Metadata();
    metadata.set("authorization", `Bearer ${token}`);
    return new Promise((resolve) => {
      client.makeUnaryRequest(
        path,
        (request: Uint8Array) => Buffer.from(request),
        (bytes: Buffer) => fromBinary(ListModelsResponseSchema, bytes),
        toBinary(ListModelsRequestSchema, create(ListModelsRequestSchema)),
        metadata,
        (error, answer) => {
          client.close();
          resolve(error ? { code: error.code } : { code: status.OK, models: answer?.models.length ?? -1 });
        },
      );
    });
  }

  test("is served with an operator key and refused with another", async () => {
    expect(await listModels(plane.keys.operator)).toEqual({ code: status.OK, models: 0 });
    expect(await listModels(plane.keys.router)).toEqual({ code: status.PERMISSION_DENIED });
    expect(await listModels("x")).toEqual({ code: status.UNAUTHENTICATED });
  });
});

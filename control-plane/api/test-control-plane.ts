import { type Client, type Transport, createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import type { DescService } from "@bufbuild/protobuf";
import type { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { NodeService, type RegisterResponse } from "#gen/helixmesh/node/v1/node_pb.ts";
import { EngineKind, KeyRole } from "#gen/helixmesh/type/v1/type_pb.ts";
import { systemClock } from "#kernel/clock.ts";
import { silentLogger } from "#kernel/log.ts";
import { Metrics } from "#kernel/metrics.ts";
import { loadSettings } from "#kernel/settings.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { createKey } from "../keys/keys.ts";
import { serve } from "../serve.ts";
import { controlPlaneSettings } from "../settings.ts";
import { type TestDatabase, openTestDatabase } from "../store/test-database.ts";
import { ensureProject } from "../tenants/projects.ts";

export interface TestControlPlane {
  readonly url: string;
  readonly adminUrl: string;
  readonly database: TestDatabase;
  readonly metrics: Metrics;
  /** One key of each role, whole. */
  readonly keys: {
    readonly inference: string;
    readonly operator: string;
    readonly router: string;
    readonly node: string;
  };
  /** Over gRPC, with a bearer token. */
  client<S extends DescService>(service: S, token: string): Client<S>;
  /** One unary call as Connect JSON with fetch. */
  json(path: string, body: unknown, token?: string): Promise<{ status: number; body: Record<string, unknown> }>;
  registerNode(name: string, changes?: { labels?: Record<string, string>; zone?: string }): Promise<RegisterResponse>;
  stop(): Promise<void>;
}

/** A control plane on free ports, with a database of its own; `flags` as on the command line. */
export async function startTestControlPlane(flags: readonly string[] = []): Promise<TestControlPlane> {
  const argv = ["--port=0", "--admin-port=0", "--drain=1s", "--reconcile-interval=200ms", "--refresh-interval=500ms"];
  const loaded = loadSettings(controlPlaneSettings, { argv: [...argv, ...flags], env: {}, command: "test" });
  if (loaded.kind !== "settings") throw new Error(JSON.stringify(loaded));
  const database = await openTestDatabase();
  const { sql } = database;
  await ensureProject(sql, systemClock, { organisationId: "default", projectId: "default" });
  const metrics = new Metrics("control-plane");
  const makeKey = async (role: KeyRole): Promise<string> =>
    (await createKey(sql, systemClock, { name: "test", role, project: "", expiresAtMs: 0 })).secret;
  const keys = {
    inference: await makeKey(KeyRole.INFERENCE),
    operator: await makeKey(KeyRole.OPERATOR),
    router: await makeKey(KeyRole.ROUTER),
    node: await makeKey(KeyRole.NODE),
  };
  const service = await serve(database, loaded.settings, { logger: silentLogger, clock: systemClock, metrics });
  const transports = new Map<string, Transport>();

  function client<S extends DescService>(service_: S, token: string): Client<S> {
    const transport =
      transports.get(token) ??
      createGrpcTransport({
        baseUrl: service.url,
        interceptors: [
          (next) => (request) => {
            if (token !== "") request.header.set("authorization", `Bearer ${token}`);
            return next(request);
          },
        ],
      });
    transports.set(token, transport);
    return createClient(service_, transport);
  }

  return {
    url: service.url,
    adminUrl: service.adminUrl,
    database,
    metrics,
    keys,
    client,
    async json(path, body, token = keys.operator) {
      const response = await fetch(`${service.url}/${path}`, {
        method: "POST",
        headers: { "content-type": "application/json", ...(token !== "" && { authorization: `Bearer ${token}` }) },
        body: typeof body === "string" ? body : JSON.stringify(body),
      });
      return { status: response.status, body: (await response.json()) as Record<string, unknown> };
    },
    registerNode: (name, { labels = {}, zone = "" } = {}) =>
      client(NodeService, keys.node).register({
        name,
        linkAddress: "127.0.0.1:8082",
        agentVersion: "test",
        host: { hostname: name, platform: "linux x64", cpuCount: 2, memoryBytes: 1n << 30n },
        labels,
        zone,
        engines: [EngineKind.LLAMA_CPP, EngineKind.SIM],
      }),
    async stop() {
      await service.drain();
      await database.close();
    },
  };
}

/** What a refused call said; fails when it was not refused. */
export async function refusal(
  call: Promise<unknown>,
): Promise<{ reason: Reason; field: string; limit: string; message: string }> {
  try {
    await call;
  } catch (error) {
    const { reason, field, limit, message } = MeshError.from(error);
    return { reason, field, limit, message };
  }
  throw new Error("the call was not refused");
}

/** Asks again until the answer is right; the test's own time limit ends a wait that is in vain. */
export async function eventually<T>(ask: () => Promise<T>, isRight: (answer: T) => boolean): Promise<T> {
  for (;;) {
    const answer = await ask();
    if (isRight(answer)) return answer;
    await new Promise((resolve) => systemClock.setTimer(20, () => resolve(undefined)));
  }
}

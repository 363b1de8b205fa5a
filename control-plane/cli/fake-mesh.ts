import { once } from "node:events";
import { createServer, type ServerHttp2Session } from "node:http2";
import { Readable } from "node:stream";
import { Code, ConnectError, type ConnectRouter } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import {
  DeploymentService,
  KeyService,
  ModelService,
  NodeAdminService,
  UsageService,
} from "#gen/helixmesh/control/v1/control_pb.ts";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { FinishReason, InferenceService } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { EngineKind, ReplicaState } from "#gen/helixmesh/type/v1/type_pb.ts";
import { ManualClock } from "#kernel/clock.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import type { Terminal } from "./terminal.ts";

/** Both servers that the CLI talks to, in one, with fixed answers: for the tests of the CLI. */
export interface FakeMesh {
  readonly url: string;
  /** Requests of the mutating methods, as they came. */
  readonly requests: unknown[];
  /** Authorization headers that came. */
  readonly authorizations: Set<string>;
  close(): Promise<void>;
}

export async function startFakeMesh(): Promise<FakeMesh> {
  const requests: unknown[] = [];
  const authorizations = new Set<string>();
  const sessions = new Set<ServerHttp2Session>();
  const handler = connectNodeAdapter({
    routes: (router) => routes(router, requests),
    interceptors: [
      (next) => (request) => {
        authorizations.add(request.header.get("authorization") ?? "");
        return next(request);
      },
    ],
  });
  const server = createServer(handler).listen(0, "127.0.0.1");
  server.on("session", (session) => {
    sessions.add(session);
    session.on("close", () => sessions.delete(session));
  });
  await once(server, "listening");
  const address = server.address();
  return {
    url: `http://127.0.0.1:${typeof address === "object" ? address?.port : ""}`,
    requests,
    authorizations,
    async close() {
      for (const session of sessions) session.destroy();
      server.close();
      await once(server, "close");
    },
  };
}

function routes(router: ConnectRouter, requests: unknown[]): void {
  const price = { promptNanosPerToken: 50n, cachedNanosPerToken: 5n, completionNanosPerToken: 200n };
  const model = { name: "pocket", version: "1", source: "builtin:pocket", price, aliases: ["tiny"] };
  const current = [
    { replicaId: "rep_1", nodeName: "local-1", status: { state: ReplicaState.READY } },
    { replicaId: "rep_2", nodeName: "local-2", status: { state: ReplicaState.FAILED, message: "no memory" } },
  ];
  const deployment = {
    name: "pocket",
    model: "pocket",
    engine: EngineKind.SIM,
    replicas: 2,
    contextTokens: 512,
    routing: { policy: "round-robin", weight: 3 },
    current,
  };
  const loading = [ReplicaState.FETCHING, ReplicaState.LOADING].map((state, index) => ({
    replicaId: `rep_1${index}`,
    nodeName: "local-3",
    status: { state, progress: 0.43 },
  }));
  const cold = { name: "slow", model: "pocket", engine: EngineKind.SIM, replicas: 2, current: loading };
  router.service(ModelService, {
    listModels: ({ pageToken }) =>
      pageToken === "" ? { models: [model], nextPageToken: "2" } : { models: [{ name: "zeta", version: "7" }] },
    getModel() {
      throw new MeshError(Reason.NOT_FOUND, "No model is called nope.", { field: "name" }).toConnectError();
    },
    deleteModel() {
      const message = 'model "used" is used by deployments: d; delete them first';
      throw new MeshError(Reason.CONFLICT, message, { field: "name" }).toConnectError();
    },
    createModel(request) {
      requests.push(request.model);
      return request.model ? { model: request.model } : {};
    },
  });
  router.service(DeploymentService, {
    listDeployments: () => ({ deployments: [deployment, cold] }),
    getDeployment: ({ name }) => ({ deployment: name === "slow" ? cold : deployment }),
    putDeployment(request) {
      requests.push(request.deployment);
      return request.deployment ? { deployment: request.deployment } : {};
    },
  });
  router.service(NodeAdminService, {
    listNodes: () => ({
      nodes: [
        {
          nodeId: "node_9",
          name: "local-1",
          zone: "eu-1a",
          online: true,
          host: { cpuCount: 2, memoryBytes: 1_610_612_736n },
        },
      ],
    }),
    setNodeCordon(request) {
      requests.push(request);
      return {};
    },
  });
  router.service(KeyService, { createKey: () => ({ key: { keyId: "abc" }, secret: "hm_abc_def" }) });
  router.service(UsageService, {
    summarizeUsage({ groupBy }) {
      const sums = { failedCalls: 1n, cachedTokens: 3n, completionTokens: 40n, unpricedCalls: 0n };
      const rows = [
        { ...sums, group: ["pocket"], calls: 1_234n, promptTokens: 1_234_567n, costNanos: 1_234n },
        { ...sums, group: ["zeta"], calls: 1n, promptTokens: 1n, costNanos: 0n, unpricedCalls: 1n },
      ];
      return { summaries: groupBy.length === 0 ? rows.slice(0, 1) : rows };
    },
    listUsage: () => ({ entries: [{ record: { callId: "call_1", model: "pocket", door: "grpc" } }] }),
  });
  router.service(InferenceService, {
    listModels: () => ({ models: [{ id: "pocket", resolvesTo: "pocket" }] }),
    async *generate(request, { requestHeader }) {
      requests.push(request);
      if (requestHeader.get("x-helixmesh-progress") === "true") {
        yield { event: { case: "waiting", value: { reason: "1 loading (43 %)" } } };
      }
      if (request.model === "broken") throw new ConnectError("the engine is gone", Code.Unavailable);
      yield { event: { case: "delta", value: { text: "The capital of Japan " } } };
      yield { event: { case: "delta", value: { text: "is Tokyo." } } };
      const usage = { promptTokens: 12, completionTokens: 8 };
      yield { event: { case: "finished", value: { finishReasons: [FinishReason.STOP], usage } } };
    },
  });
}

/** A terminal that records what was written to it. */
export function recordingTerminal(
  env: Record<string, string>,
  stdin = "",
): Terminal & { stdout: string; stderr: string } {
  const terminal = {
    env,
    clock: new ManualClock(),
    stdin: Readable.from([Buffer.from(stdin)]),
    interactive: false,
    stdout: "",
    stderr: "",
    out: (text: string) => void (terminal.stdout += text),
    err: (text: string) => void (terminal.stderr += text),
    onInterrupt: () => () => {},
  };
  return terminal;
}

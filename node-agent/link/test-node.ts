import { create } from "@bufbuild/protobuf";
import { GenerateRequestSchema } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { LinkService, Method } from "#gen/helixmesh/link/v1/link_pb.ts";
import { DesiredReplicaSchema } from "#gen/helixmesh/node/v1/node_pb.ts";
import { EngineKind, ReplicaState, type UsageRecord } from "#gen/helixmesh/type/v1/type_pb.ts";
import { systemClock } from "#kernel/clock.ts";
import { silentLogger } from "#kernel/log.ts";
import { Metrics } from "#kernel/metrics.ts";
import { newId, systemRandom } from "#kernel/random.ts";
import { rpcErrors } from "#kernel/rpc-errors.ts";
import { type RpcServer, startRpcServer } from "#kernel/rpc-server.ts";
import { CallMetrics, createCallRunner } from "../call/index.ts";
import { createSimEngine } from "../engines/sim/index.ts";
import { ReplicaSet } from "../replicas/index.ts";
import type { HeldLimits } from "./held-calls.ts";
import { LinkServer, noPrefixes } from "./index.ts";
import type { PrefixSource } from "./prefix-source.ts";
import { TestRouter, encode } from "./test-router.ts";

export const linkToken = "a-link-token";

/** What of an agent serves links: replica `r1` of model `m` on a sim engine, behind a port of its own. */
export class TestNode {
  readonly usage: UsageRecord[] = [];
  readonly metrics = new Metrics("node-agent");
  readonly replicas: ReplicaSet;
  readonly link: LinkServer;
  readonly routers: TestRouter[] = [];
  #server: RpcServer | undefined;

  constructor(
    overrides: {
      heartbeatMs?: number;
      calls?: number;
      links?: number;
      callBytes?: number;
      linkBytes?: number;
      prefixes?: PrefixSource;
      loadIntervalMs?: number;
      held?: Partial<HeldLimits>;
    } = {},
  ) {
    const base = { clock: systemClock, random: systemRandom, logger: silentLogger };
    const replicas = new ReplicaSet({
      ...base,
      fetchModel: async () => "",
      engineFor: async () => createSimEngine,
      drainTimeoutMs: 5_000,
      onChange: (replica) => this.link.replicaChanged(replica),
    });
    const runner = createCallRunner({
      ...base,
      target: (replicaId) => replicas.target(replicaId),
      nodeId: () => "node-1",
      recordUsage: (record) => void this.usage.push(record),
      newToolCallId: () => newId("call"),
      metrics: new CallMetrics(this.metrics),
    });
    const { calls = 4_096, links = 4, callBytes = 1 << 20, linkBytes = 1 << 26 } = overrides;
    this.replicas = replicas;
    this.link = new LinkServer({
      ...base,
      metrics: this.metrics,
      identity: () => ({ nodeId: "node-1", linkToken }),
      replicas: () => replicas.infos(),
      readLoads: () => replicas.loads(),
      runner,
      limits: { links, calls, callBytes, linkBytes },
      held: { windowMs: 5_000, calls: 100, callBytes: 1 << 20, totalBytes: 1 << 24, ...overrides.held },
      heartbeatMs: overrides.heartbeatMs ?? 1_000,
      loadIntervalMs: overrides.loadIntervalMs ?? 20,
      helloTimeoutMs: 5_000,
      maxMessageBytes: 1 << 26,
      prefixes: overrides.prefixes ?? noPrefixes,
    });
  }

  async start(engineOptions: Record<string, string> = {}): Promise<this> {
    this.#server = await startRpcServer({
      host: "127.0.0.1",
      port: 0,
      routes: () => {},
      hot: this.link.hot,
      services: [LinkService],
      interceptors: [rpcErrors(silentLogger)],
      health: () => true,
      maxBodyBytes: 1 << 26,
      logger: silentLogger,
      metrics: this.metrics,
    });
    const options = { time_scale: "0", ...engineOptions };
    const replica = {
      replicaId: "r1",
      deployment: "d",
      model: "m",
      engine: EngineKind.SIM,
      parallelSequences: 256,
      engineOptions: options,
    };
    this.replicas.setDesired([create(DesiredReplicaSchema, replica)]);
    return this;
  }

  get port(): number {
    return this.#server?.port ?? 0;
  }

  router(token = linkToken, port = this.port): TestRouter {
    const router = new TestRouter(port, token);
    this.routers.push(router);
    return router;
  }

  /** A router that has said hello and knows the replica to be ready. */
  async readyRouter(instanceId = "", port = this.port): Promise<TestRouter> {
    const router = this.router(linkToken, port);
    await router.hello([1], instanceId);
    await router.frame(({ frame }) => {
      const infos = frame.case === "hello" || frame.case === "step" ? frame.value.replicas : [];
      return infos.some((info) => info.state === ReplicaState.READY);
    });
    return router;
  }

  async close(): Promise<void> {
    for (const router of this.routers) router.close();
    await this.replicas.close(0);
    await this.#server?.close();
  }
}

type Fields = Exclude<Parameters<typeof encode<typeof GenerateRequestSchema>>[1], { $typeName: string }>;
/** The fields of a StartCall for a story of 20 tokens. */
export function generate(fields: Fields = {}) {
  const input = { case: "prompt" as const, value: "Tell me a story." };
  const request = encode(GenerateRequestSchema, {
    model: "m",
    input,
    sampling: { temperature: 0 },
    maxOutputTokens: 20,
    ...fields,
  });
  return { replicaId: "r1", method: Method.GENERATE, request };
}

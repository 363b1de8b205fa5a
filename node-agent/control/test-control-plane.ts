import { create } from "@bufbuild/protobuf";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import {
  type DesiredReplica,
  NodeService,
  type RegisterRequest,
  type ReportStatusRequest,
  WatchDesiredStateResponseSchema,
} from "#gen/helixmesh/node/v1/node_pb.ts";
import type { UsageRecord } from "#gen/helixmesh/type/v1/type_pb.ts";
import { bearerToken } from "#kernel/api-key.ts";
import { silentLogger } from "#kernel/log.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { Metrics } from "#kernel/metrics.ts";
import { rpcErrors } from "#kernel/rpc-errors.ts";
import { type RpcServer, startRpcServer } from "#kernel/rpc-server.ts";

/** A control plane of one node, in memory, for tests. */
export class TestControlPlane {
  readonly registrations: RegisterRequest[] = [];
  readonly statuses: ReportStatusRequest[] = [];
  readonly usage: UsageRecord[] = [];
  heartbeats = 0;
  /** What it answers at registration; a change makes the old token unknown. */
  nodeToken = "node-token";
  /** Usage is refused while true. */
  refusesUsage = false;
  #desired: DesiredReplica[];
  #server: RpcServer | undefined;
  #changed = Promise.withResolvers<void>();
  #noted = Promise.withResolvers<void>();

  constructor(desired: DesiredReplica[]) {
    this.#desired = desired;
  }

  async start(port = 0): Promise<this> {
    const check = (header: Headers, secret: string): void => {
      if (bearerToken(header.get("authorization")) !== secret)
        throw new MeshError(Reason.INVALID_API_KEY, "Wrong key.");
    };
    this.#server = await startRpcServer({
      host: "127.0.0.1",
      port,
      routes: (router) =>
        router.service(NodeService, {
          register: (request, { requestHeader }) => {
            check(requestHeader, "node-key");
            this.registrations.push(request);
            this.#note();
            return {
              nodeId: "n1",
              nodeToken: this.nodeToken,
              linkToken: "link-token",
              heartbeatIntervalMs: 100,
              leaseMs: 1_000,
            };
          },
          heartbeat: (_request, { requestHeader }) => {
            check(requestHeader, this.nodeToken);
            this.heartbeats++;
            this.#note();
            return {};
          },
          reportStatus: (request, { requestHeader }) => {
            check(requestHeader, this.nodeToken);
            this.statuses.push(request);
            this.#note();
            return {};
          },
          reportUsage: (request, { requestHeader }) => {
            check(requestHeader, this.nodeToken);
            if (this.refusesUsage) throw new MeshError(Reason.CONTROL_PLANE_UNAVAILABLE, "Not now.");
            this.usage.push(...request.records);
            this.#note();
            return {};
          },
          watchDesiredState: (_request, { requestHeader, signal }) => {
            check(requestHeader, this.nodeToken);
            return this.#watch(signal);
          },
        }),
      services: [NodeService],
      interceptors: [rpcErrors(silentLogger)],
      health: () => true,
      maxBodyBytes: 1 << 24,
      logger: silentLogger,
      metrics: new Metrics("test"),
    });
    return this;
  }

  get port(): number {
    return this.#server?.port ?? 0;
  }

  setDesired(desired: DesiredReplica[]): void {
    this.#desired = desired;
    this.#changed.resolve();
    this.#changed = Promise.withResolvers();
  }

  /** Resolves once `holds` does; looked at after every request. */
  async until(holds: () => boolean): Promise<void> {
    while (!holds()) await this.#noted.promise;
  }

  async close(): Promise<void> {
    await this.#server?.close();
    this.#server = undefined;
  }

  async *#watch(signal: AbortSignal) {
    const aborted = new Promise<void>((resolve) => signal.addEventListener("abort", () => resolve(), { once: true }));
    while (!signal.aborted) {
      const changed = this.#changed.promise;
      yield create(WatchDesiredStateResponseSchema, { replicas: this.#desired });
      await Promise.race([changed, aborted]);
    }
  }

  #note(): void {
    this.#noted.resolve();
    this.#noted = Promise.withResolvers();
  }
}

import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { type Clock, systemClock } from "#kernel/clock.ts";
import { silentLogger } from "#kernel/log.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { Metrics } from "#kernel/metrics.ts";
import { type RpcServer, startRpcServer } from "#kernel/rpc-server.ts";
import type { OpenAiDeps } from "./exchange.ts";
import { handleOpenAi, openAiHotPath } from "./index.ts";
import { ScriptedCalls } from "./scripted-calls.ts";

export const testKey = "test-key";

/** For tests: the doors on a real port, HTTP/1.1 and HTTP/2, in front of scripted calls. */
export interface DoorServer {
  readonly calls: ScriptedCalls;
  readonly metrics: Metrics;
  readonly port: number;
  readonly url: string;
  close(): Promise<void>;
}

export async function startDoorServer(
  options: Partial<OpenAiDeps> & { readonly clock?: Clock } = {},
): Promise<DoorServer> {
  const calls = new ScriptedCalls();
  const metrics = new Metrics("test");
  let nextId = 1;
  const deps: OpenAiDeps = {
    calls,
    authenticate(authorization) {
      if (authorization === `Bearer ${testKey}`) return { keyId: "k", projectId: "p" };
      throw new MeshError(Reason.INVALID_API_KEY, "This API key is not valid.");
    },
    clock: systemClock,
    logger: silentLogger,
    metrics,
    newCallId: () => `call_${nextId++}`,
    maxBodyBytes: 100_000,
    ...options,
  };
  const server: RpcServer = await startRpcServer({
    host: "127.0.0.1",
    port: 0,
    routes() {},
    services: [],
    health: () => true,
    fallback: (request, response) => handleOpenAi(request, response, deps),
    hotPath: openAiHotPath(deps, {}),
    maxBodyBytes: deps.maxBodyBytes,
    logger: silentLogger,
    metrics,
  });
  return { calls, metrics, port: server.port, url: `http://127.0.0.1:${server.port}`, close: () => server.close() };
}

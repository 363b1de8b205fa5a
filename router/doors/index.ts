import { InferenceService } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import type { Clock } from "#kernel/clock.ts";
import type { Logger } from "#kernel/log.ts";
import type { MeshError } from "#kernel/mesh-error.ts";
import type { Metrics } from "#kernel/metrics.ts";
import { newId } from "#kernel/random.ts";
import { type RpcServer, startRpcServer } from "#kernel/rpc-server.ts";
import type { Principal } from "../admission/authenticate.ts";
import type { Calls } from "../call/calls.ts";
import { createCors, headersWithoutOrigin } from "./cors.ts";
import { handleOpenAi, openAiHotPath } from "./openai/index.ts";
import { nameRequest } from "./request-id.ts";
import { callerKey, generateMethod, inferenceService } from "./rpc/index.ts";

export interface DoorsOptions {
  readonly host: string;
  readonly port: number;
  readonly tls: { readonly cert: Buffer; readonly key: Buffer } | undefined;
  readonly calls: Calls;
  /** Takes the `authorization` header. @throws MeshError INVALID_API_KEY, PERMISSION_DENIED */
  readonly authenticate: (authorization: string | null | undefined) => Principal;
  /** What grpc.health.v1 says. */
  readonly healthy: () => boolean;
  /** Hears when a drain cuts the calls that are still open. */
  readonly onCut: (error: MeshError) => void;
  readonly maxBodyBytes: number;
  readonly corsOrigins: readonly string[];
  readonly clock: Clock;
  readonly logger: Logger;
  readonly metrics: Metrics;
}

/** Opens the one port of all doors: RPC paths go to the RPC door, every other path to the OpenAI doors. */
export function openDoors(options: DoorsOptions): Promise<RpcServer> {
  const { host, port, tls, calls, authenticate, healthy, onCut, maxBodyBytes, clock, logger, metrics } = options;
  const cors = createCors(options.corsOrigins);
  const generate = generateMethod({ calls, authenticate, maxBodyBytes, clock, logger, metrics });
  const openAi = { calls, authenticate, clock, logger, metrics, maxBodyBytes, newCallId: () => newId("call") };
  return startRpcServer({
    host,
    port,
    tls,
    services: [InferenceService],
    routes: (router) => router.service(InferenceService, inferenceService(calls)),
    authorize: ({ requestHeader, values }) =>
      void values.set(callerKey, authenticate(requestHeader.get("authorization"))),
    hot: new Map([[`/${InferenceService.typeName}/${InferenceService.method.generate.name}`, generate]]),
    health: healthy,
    before(request, response) {
      nameRequest(request, response);
      return cors(request, response);
    },
    fallback: (request, response) => handleOpenAi(request, response, openAi),
    hotPath: openAiHotPath(openAi, headersWithoutOrigin(options.corsOrigins)),
    onCut,
    maxBodyBytes,
    logger,
    metrics,
  });
}

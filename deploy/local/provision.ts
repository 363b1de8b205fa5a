import { existsSync, readFileSync } from "node:fs";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { type Client, Code, ConnectError, createClient, type Interceptor, type Transport } from "@connectrpc/connect";
import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";
import {
  type Deployment,
  DeploymentService,
  KeyService,
  type ModelSchema,
  ModelService,
  NodeAdminService,
} from "#gen/helixmesh/control/v1/control_pb.ts";
import { EngineKind, KeyRole } from "#gen/helixmesh/type/v1/type_pb.ts";
import { parseApiKey } from "#kernel/api-key.ts";
import { type StateFolder, writeAtomically } from "./state-folder.ts";

export const pocketModel = {
  name: "pocket",
  version: "1",
  source: "builtin:pocket",
  sha256: "0c4cccde676595671177c5acfbc7ac96f847a062e627ccf7a786c1e5edf33f9f",
  // 0.05 and 0.20 dollars per million tokens: a model that costs nothing would hide what accounting does.
  price: { promptNanosPerToken: 50n, cachedNanosPerToken: 5n, completionNanosPerToken: 200n, effectiveAtMs: 0n },
} satisfies MessageInitShape<typeof ModelSchema>;

const engineKinds = { "llama.cpp": EngineKind.LLAMA_CPP, sim: EngineKind.SIM } as const;

export type EngineName = keyof typeof engineKinds;

/** An open HTTP/2 connection with a key; `close` it, or it keeps the process alive. */
export function connect(url: string, key: string): { readonly transport: Transport; close(): void } {
  const sessionManager = new Http2SessionManager(url);
  const authorize: Interceptor = (next) => (request) => {
    request.header.set("authorization", `Bearer ${key}`);
    return next(request);
  };
  const transport = createGrpcTransport({
    baseUrl: url,
    sessionManager,
    interceptors: [authorize],
    defaultTimeoutMs: 30_000,
  });
  return { transport, close: () => sessionManager.abort() };
}

/** What `up` asks of the control plane, with the operator's key. */
export class Provisioner {
  readonly #models: Client<typeof ModelService>;
  readonly #deployments: Client<typeof DeploymentService>;
  readonly #nodes: Client<typeof NodeAdminService>;
  readonly #keys: Client<typeof KeyService>;

  constructor(transport: Transport) {
    this.#models = createClient(ModelService, transport);
    this.#deployments = createClient(DeploymentService, transport);
    this.#nodes = createClient(NodeAdminService, transport);
    this.#keys = createClient(KeyService, transport);
  }

  /** Registers the Pocket model unless it is there, and gives it a price unless it has one. */
  async ensureModel(): Promise<void> {
    const found = await orUndefined(this.#models.getModel({ name: pocketModel.name }));
    const { source, sha256, name, price } = pocketModel;
    if (found?.model?.source !== source || found.model.sha256 !== sha256) {
      await this.#models.createModel({ model: pocketModel });
    } else if (!found.model.price) {
      await this.#models.setPrice({ model: name, price });
    }
  }

  /** Makes the deployment what the flags say; what an operator set besides stays. */
  async ensureDeployment(engine: EngineName, replicas: number): Promise<void> {
    const found = (await orUndefined(this.#deployments.getDeployment({ name: pocketModel.name })))?.deployment;
    const wanted = { engine: engineKinds[engine], replicas, maxReplicasPerNode: 1, model: pocketModel.name };
    if (found && Object.entries(wanted).every(([field, value]) => found[field as keyof typeof wanted] === value))
      return;
    const deployment = found ? { ...found, ...wanted, current: [] } : { name: pocketModel.name, ...wanted };
    await this.#deployments.putDeployment({ deployment });
  }

  /** Undefined while there is none. Replicas on agents beyond `nodes`, of an earlier start, are left out. */
  async deployment(nodes: number): Promise<Deployment | undefined> {
    const found = (await orUndefined(this.#deployments.getDeployment({ name: pocketModel.name })))?.deployment;
    return found && { ...found, current: found.current.filter(({ nodeName }) => localIndex(nodeName) <= nodes) };
  }

  /** Forgets agents of an earlier start with more nodes, so that no replica is kept on one that never comes back. */
  async forgetNodesBeyond(count: number): Promise<void> {
    const { nodes } = await this.#nodes.listNodes({ pageSize: 1_000 });
    for (const node of nodes) {
      // Refused until the node's lease has ended; the next look tries again.
      if (localIndex(node.name) > count) await this.#nodes.deleteNode({ nodeId: node.nodeId }).catch(ignoreRefusal);
    }
  }

  /**
   * A key of our own for the call that shows that the model answers, so that the first key's usage is what its owner
   * used. Kept in the state folder beside the others.
   */
  async probeKey(state: StateFolder): Promise<string> {
    const file = state.path("probe-key");
    const kept = existsSync(file) ? readFileSync(file, "utf8").trim() : "";
    const { keys } = await this.#keys.listKeys({ pageSize: 1_000 });
    if (keys.some((key) => key.keyId === parseApiKey(kept)?.id && key.revokedAtMs === 0n)) return kept;
    const { secret } = await this.#keys.createKey({ name: "helixmesh up", role: KeyRole.INFERENCE });
    writeAtomically(file, `${secret}\n`, 0o600);
    return secret;
  }
}

/** 2 for our agent "local-2"; 0 for a node that is not ours. */
function localIndex(nodeName: string): number {
  return Number(/^local-(\d+)$/.exec(nodeName)?.[1] ?? 0);
}

async function orUndefined<T>(answer: Promise<T>): Promise<T | undefined> {
  try {
    return await answer;
  } catch (error) {
    if (error instanceof ConnectError && error.code === Code.NotFound) return undefined;
    throw error;
  }
}

function ignoreRefusal(error: unknown): void {
  if (!(error instanceof ConnectError && (error.code === Code.FailedPrecondition || error.code === Code.NotFound)))
    throw error;
}

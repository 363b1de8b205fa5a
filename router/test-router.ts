import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type MessageInitShape, create } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import {
  DeltaSchema,
  DiscoveryService,
  SnapshotSchema,
  type WatchResponse,
  WatchResponseSchema,
} from "#gen/helixmesh/discovery/v1/discovery_pb.ts";
import { type DeploymentRoutingSchema, KeyRole, Outcome, type UsageRecord } from "#gen/helixmesh/type/v1/type_pb.ts";
import { type ApiKey, createApiKey } from "#kernel/api-key.ts";
import { systemClock } from "#kernel/clock.ts";
import { silentLogger } from "#kernel/log.ts";
import { Metrics } from "#kernel/metrics.ts";
import { systemRandom } from "#kernel/random.ts";
import { type RpcServer, startRpcServer } from "#kernel/rpc-server.ts";
import { type RunningService, commonSettings } from "#kernel/run-service.ts";
import { loadSettings } from "#kernel/settings.ts";
import { TestAgent, type TestAgentOptions } from "./link/test-agent.ts";
import { serveRouter } from "./serve.ts";
import { routerSettings } from "./settings.ts";

type Snapshot = MessageInitShape<typeof SnapshotSchema>;
type Delta = MessageInitShape<typeof DeltaSchema>;

/** A control plane for tests: a real DiscoveryService whose snapshot the test holds. */
class TestControl {
  /** By call id, as the ledger merges them: an answer that got lost makes the router send a record again. */
  readonly #usage = new Map<string, UsageRecord>();
  /** Each report of a router, as it came. */
  readonly reports: UsageRecord[] = [];
  readonly #watchers = new Set<(message: WatchResponse | undefined) => void>();
  readonly #snapshot: () => Snapshot;
  #server: RpcServer | undefined;
  #told: (() => void)[] = [];
  port = 0;
  watches = 0;

  constructor(snapshot: () => Snapshot) {
    this.#snapshot = snapshot;
  }

  get usage(): readonly UsageRecord[] {
    return [...this.#usage.values()];
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  async listen(port = 0): Promise<void> {
    this.#server = await startRpcServer({
      host: "127.0.0.1",
      port,
      services: [DiscoveryService],
      routes: (router) =>
        router.service(DiscoveryService, {
          watch: (_request, context) => this.#watch(context.signal),
          reportUsage: ({ records }) => {
            for (const record of records) this.#record(record);
            this.#tell();
            return {};
          },
        }),
      health: () => true,
      maxBodyBytes: 1 << 24,
      logger: silentLogger,
      metrics: new Metrics("test-control"),
    });
    this.port = this.#server.port;
  }

  send(delta: Delta): void {
    const message = create(WatchResponseSchema, { update: { case: "delta", value: create(DeltaSchema, delta) } });
    for (const watcher of this.#watchers) watcher(message);
  }

  /** Resolves as soon as `condition` holds, looked at whenever a router watches or reports usage. */
  async until(condition: () => boolean): Promise<void> {
    while (!condition()) await new Promise<void>((resolve) => this.#told.push(resolve));
  }

  async close(): Promise<void> {
    for (const watcher of this.#watchers) watcher(undefined);
    await this.#server?.close();
    this.#server = undefined;
  }

  async *#watch(signal: AbortSignal): AsyncGenerator<WatchResponse> {
    const queue: (WatchResponse | undefined)[] = [];
    let wake = (): void => {};
    const push = (message: WatchResponse | undefined): void => {
      queue.push(message);
      wake();
    };
    this.#watchers.add(push);
    signal.addEventListener("abort", () => push(undefined));
    this.watches += 1;
    this.#tell();
    try {
      const snapshot = create(SnapshotSchema, this.#snapshot());
      yield create(WatchResponseSchema, { update: { case: "snapshot", value: snapshot } });
      for (;;) {
        while (queue.length === 0) {
          await new Promise<void>((resolve) => {
            wake = resolve;
          });
        }
        const message = queue.shift();
        if (!message) throw new ConnectError("the test control plane is closing", Code.Unavailable);
        yield message;
      }
    } finally {
      this.#watchers.delete(push);
    }
  }

  /** Of two routers that had a call, the one that saw more of it is right. */
  #record(record: UsageRecord): void {
    this.reports.push(record);
    const seen = this.#usage.get(record.callId);
    const isSame = seen?.keyId === record.keyId && seen.startedAtMs === record.startedAtMs;
    if (!isSame || worth(seen) < worth(record)) this.#usage.set(record.callId, record);
  }

  #tell(): void {
    for (const resolve of this.#told.splice(0)) resolve();
  }
}

/** More for more tokens, and for an answer that is complete. */
function worth({ usage, outcome }: UsageRecord): number {
  return (usage?.completionTokens ?? 0) + (outcome === Outcome.COMPLETED ? 0.5 : 0);
}

/** A whole router of this process over test agents, with every socket real. */
export interface TestMesh {
  readonly url: string;
  readonly adminUrl: string;
  readonly port: number;
  readonly control: TestControl;
  readonly agents: readonly TestAgent[];
  /** Of role INFERENCE, in project-1. */
  readonly key: string;
  /** Of role INFERENCE, in project-2. */
  readonly otherKey: string;
  /** Of role OPERATOR: may not call. */
  readonly operatorKey: string;
  readonly stateDir: string;
  readonly metrics: () => Promise<string>;
  /** Drains the router, does what `between` says and starts another one in its state folder. */
  readonly restartRouter: (between?: () => Promise<void>) => Promise<TestMesh>;
  close(): Promise<void>;
}

/** An agent that the test itself runs. */
export interface OutsideAgent {
  readonly nodeId: string;
  readonly replicaId: string;
  readonly linkAddress: string;
  readonly linkToken: string;
}

export interface TestMeshOptions {
  readonly outside?: readonly OutsideAgent[];
  readonly agents?: readonly TestAgentOptions[];
  /** How the one deployment is served. */
  readonly routing?: MessageInitShape<typeof DeploymentRoutingSchema>;
  /** Flags of the router, such as `--ready-wait=0`. */
  readonly flags?: readonly string[];
}

export async function startTestMesh(options: TestMeshOptions = {}): Promise<TestMesh> {
  const stateDir = await mkdtemp(join(tmpdir(), "router-test-"));
  const agents: TestAgent[] = [];
  const { outside = [], routing } = options;
  for (const [index, agent] of (options.agents ?? [{}]).entries()) {
    const defaults = { nodeId: `node-${index + 1}`, replicaIds: [`replica-${index + 1}`] };
    agents.push(await TestAgent.start({ ...defaults, ...agent }));
  }
  const key = createApiKey();
  const otherKey = createApiKey();
  const operatorKey = createApiKey();
  const control = new TestControl(() => ({
    version: 1n,
    models: [{ name: "pocket", created: 1_700_000_000n }],
    aliases: [{ name: "small", model: "pocket" }],
    deployments: [{ name: "pocket-deployment", model: "pocket", ...(routing && { routing }) }],
    nodes: [
      ...agents.map((agent) => nodeOf(agent)),
      ...outside.map(({ nodeId, linkAddress, linkToken }) => ({ nodeId, linkAddress, linkToken, name: nodeId })),
    ],
    replicas: [
      ...agents.flatMap(({ options: { replicaIds, nodeId } }) =>
        replicaIds.map((replicaId) => ({ replicaId, nodeId })),
      ),
      ...outside,
    ].map(({ replicaId, nodeId }) => ({ replicaId, nodeId, deployment: "pocket-deployment" })),
    keys: [
      keyOf(key, KeyRole.INFERENCE),
      keyOf(otherKey, KeyRole.INFERENCE, "project-2"),
      keyOf(operatorKey, KeyRole.OPERATOR),
    ],
  }));
  await control.listen();
  await writeFile(join(stateDir, "router-key"), createApiKey().text);

  async function open(): Promise<TestMesh> {
    const flags = [
      "--port=0",
      "--admin-port=0",
      `--control-url=${control.url}`,
      `--key-file=${join(stateDir, "router-key")}`,
      `--state-dir=${stateDir}`,
      "--router-id=router-under-test",
      "--usage-flush-timeout=200",
      "--drain-timeout=1000",
      ...(options.flags ?? []),
    ];
    const loaded = loadSettings({ ...commonSettings, ...routerSettings }, { argv: flags, env: {}, command: "test" });
    if (loaded.kind !== "settings") throw new Error(JSON.stringify(loaded));
    const router: RunningService = await serveRouter(loaded.settings, {
      logger: silentLogger,
      metrics: new Metrics("router"),
      clock: systemClock,
      random: systemRandom,
      crash: (error) => {
        throw error;
      },
    });
    const { url = "", adminUrl = "" } = router;
    return {
      url,
      adminUrl,
      port: Number(new URL(url).port),
      control,
      agents,
      key: key.text,
      otherKey: otherKey.text,
      operatorKey: operatorKey.text,
      stateDir,
      metrics: async () => (await fetch(`${adminUrl}/metrics`)).text(),
      async restartRouter(between) {
        await router.drain();
        await between?.();
        return open();
      },
      async close() {
        await router.drain();
        for (const agent of agents) await agent.close();
        await control.close();
        await rm(stateDir, { recursive: true });
      },
    };
  }
  const mesh = await open();
  for (const agent of agents) await agent.connected();
  return mesh;
}

function nodeOf(agent: TestAgent) {
  const { nodeId, linkToken } = agent.options;
  return { nodeId, linkAddress: agent.address, linkToken, name: nodeId };
}

function keyOf(key: ApiKey, role: KeyRole, projectId = "project-1") {
  return { keyId: key.id, secretSha256: key.secretSha256, role, projectId, expiresAtMs: 0n };
}

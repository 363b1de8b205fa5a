// A process of the test bed: engines, each behind every door that a contestant may want, and the control plane's word
// for routers. Asked by its parent (bed/backends.ts).
import { once } from "node:events";
import { type AddressInfo, createServer } from "node:net";
import { KeyRole } from "#gen/helixmesh/type/v1/type_pb.ts";
import { createApiKey } from "#kernel/api-key.ts";
import { type HeaderList, type WireStream, serveConnection } from "#kernel/wire/index.ts";
import type { BackendPorts, EngineStats, RouterFeed } from "./bed/backends.ts";
import { bedWire } from "./bed/bed-wire.ts";
import { BedDiscovery } from "./bed/discovery.ts";
import { BedEngine, type EngineSettings } from "./bed/engine.ts";
import { GrpcDoor } from "./bed/grpc-door.ts";
import { LinkDoor } from "./bed/link-door.ts";
import { openOpenAiDoor } from "./bed/openai-door.ts";
import { serveParent } from "./bed/parent.ts";

const wire = bedWire();
const engines: { readonly engine: BedEngine; readonly ports: BackendPorts }[] = [];
const feeds: BedDiscovery[] = [];

async function openEngine(at: number, count: number): Promise<BackendPorts> {
  const engine = new BedEngine(at / count);
  const name = { nodeId: `node-${at}`, replicaId: `replica-${at}` };
  const onStream = (stream: WireStream, headers: HeaderList) =>
    headers.path === "/helixmesh.link.v1.LinkService/Connect"
      ? new LinkDoor(stream, { ...name, engine })
      : new GrpcDoor(stream, engine);
  const server = createServer((socket) => {
    serveConnection(wire, socket, Buffer.alloc(0), { onStream });
  });
  server.listen({ port: 0, host: "127.0.0.1", backlog: 16_384 });
  await once(server, "listening");
  const openAi = await openOpenAiDoor(engine);
  const ports = { grpc: (server.address() as AddressInfo).port, openAi: openAi.port };
  engines.push({ engine, ports });
  return ports;
}

await serveParent({
  async open({ count }: { readonly count: number }): Promise<BackendPorts[]> {
    const ports: BackendPorts[] = [];
    for (let at = 0; at < count; at++) ports.push(await openEngine(at, count));
    return ports;
  },
  configure(settings: EngineSettings): void {
    for (const { engine } of engines) engine.configure(settings);
  },
  stats(): EngineStats {
    const sum = (read: (engine: BedEngine) => number): number =>
      engines.reduce((total, { engine }) => total + read(engine), 0);
    return { hitBlocks: sum(({ cache }) => cache.hits), blocks: sum(({ cache }) => cache.lookups) };
  },
  /** A discovery service that knows the first `agents` engines. */
  async feed({ agents }: { readonly agents: number }): Promise<RouterFeed> {
    const key = createApiKey();
    const nodes = engines.slice(0, agents);
    const discovery = await BedDiscovery.start({
      version: 1n,
      models: [{ name: "bench", created: 1_700_000_000n }],
      deployments: [{ name: "bench", model: "bench" }],
      nodes: nodes.map(({ ports }, at) => ({
        nodeId: `node-${at}`,
        name: `node-${at}`,
        linkAddress: `127.0.0.1:${ports.grpc}`,
        linkToken: "bench",
      })),
      replicas: nodes.map((_, at) => ({ replicaId: `replica-${at}`, deployment: "bench", nodeId: `node-${at}` })),
      keys: [
        { keyId: key.id, secretSha256: key.secretSha256, role: KeyRole.INFERENCE, projectId: "bench", expiresAtMs: 0n },
      ],
    });
    feeds.push(discovery);
    return { port: discovery.port, key: key.text };
  },
  recordedCalls: (): number => feeds.reduce((sum, feed) => sum + feed.recordedCalls, 0),
});

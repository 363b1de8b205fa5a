import { create } from "@bufbuild/protobuf";
import { SnapshotSchema } from "#gen/helixmesh/discovery/v1/discovery_pb.ts";
import { PrefixDigestSchema } from "#gen/helixmesh/link/v1/link_pb.ts";
import { EngineCapabilitiesSchema, ReplicaLoadSchema, ReplicaState } from "#gen/helixmesh/type/v1/type_pb.ts";
import { systemClock } from "#kernel/clock.ts";
import { Metrics } from "#kernel/metrics.ts";
import { randomInt, seededRandom } from "#kernel/random.ts";
import { indexSnapshot } from "../router/discovery/snapshot.ts";
import { Fleet } from "../router/routing/fleet.ts";
import { PrefixIndex } from "../router/routing/prefix-index.ts";
import type { ReplicaView } from "../router/routing/replica-view.ts";
import { Routes } from "../router/routing/routes.ts";
import { routingMetrics } from "../router/routing/routing-metrics.ts";
import { median } from "./report.ts";

/** Blocks of each prompt; the first 10 are the same for all. */
const promptBlocks = 40;
const sharedBlocks = 10;
const picks = 4_000;

interface Subject {
  readonly pick: () => void;
  readonly scan: () => void;
}

/**
 * Microseconds of CPU that one pick takes with its bookkeeping, and that a look at every replica takes, by number of
 * nodes. `conversations` are cached, spread over the nodes.
 */
export function measurePicks(
  sizes: readonly number[],
  conversations: number,
): ReadonlyMap<number, { readonly pickUs: number; readonly scanUs: number }> {
  const subjects = new Map(sizes.map((size) => [size, subject(size, conversations)]));
  const pickUs = new Map<number, number[]>(sizes.map((size) => [size, []]));
  const scanUs = new Map<number, number[]>(sizes.map((size) => [size, []]));
  // Interleaved, so that a busy moment of the machine meets all of them; the first round warms up.
  for (let round = 0; round < 8; round++) {
    for (const [size, { pick, scan }] of subjects) {
      const picked = timeUs(picks, pick);
      const scanned = timeUs(Math.ceil(picks / 100), scan);
      if (round === 0) continue;
      pickUs.get(size)?.push(picked);
      scanUs.get(size)?.push(scanned);
    }
  }
  return new Map(
    sizes.map((size) => [size, { pickUs: median(pickUs.get(size) ?? []), scanUs: median(scanUs.get(size) ?? []) }]),
  );
}

/** Of CPU, so that whatever else the machine does counts less. */
function timeUs(times: number, work: () => void): number {
  const before = process.cpuUsage();
  for (let i = 0; i < times; i++) work();
  const { user, system } = process.cpuUsage(before);
  return (user + system) / times;
}

function subject(size: number, conversations: number): Subject {
  const random = seededRandom(size);
  const capabilities = create(EngineCapabilitiesSchema, { generate: true, parallelSequences: 16 });
  const replicas = Array.from({ length: size }, (_, i) => ({ replicaId: `r${i}`, nodeId: `n${i}`, deployment: "d" }));
  const views = new Map<string, ReplicaView>();
  const report = (replicaId: string): ReplicaView => {
    const running = randomInt(random, 12);
    const load = create(ReplicaLoadSchema, {
      replicaId,
      running,
      stepTimeUs: 15_000 + 300 * running,
      prefillTokensPerS: 8_000,
      prefillBacklogTokens: BigInt(randomInt(random, 2_000)),
    });
    return { state: ReplicaState.READY, capabilities, load, inFlight: 0 };
  };
  for (const { replicaId } of replicas) views.set(replicaId, report(replicaId));
  const metrics = routingMetrics(new Metrics("bench"));
  const prefixes = new PrefixIndex({ maxEntries: 10_000_000, random, metrics });
  const fleet = new Fleet({
    lookup: (_nodeId, replicaId) => views.get(replicaId),
    prefixes,
    zone: "",
    zonePenaltyMs: 0,
    clock: systemClock,
  });
  const routes = new Routes({
    fleet,
    prefixes,
    policy: "predicted-ttft",
    blockBytes: 256,
    clock: systemClock,
    random,
    metrics,
  });
  const models = [{ name: "m" }];
  fleet.follow(indexSnapshot(create(SnapshotSchema, { models, deployments: [{ name: "d", model: "m" }], replicas })));
  // Every node holds the shared beginning and its share of the conversations.
  for (const [i, { replicaId, nodeId }] of replicas.entries()) {
    const own = Array.from({ length: Math.ceil(conversations / size) }, (_, k) => [...conversation(k * size + i)]);
    prefixes.apply(nodeId, create(PrefixDigestSchema, { replicaId, sequence: 1n, snapshot: true, added: own.flat() }));
  }
  const needs = [{ capability: "generate", parameter: "model" }] as const;
  // Made before the clock runs. News keeps coming in while calls are placed; half of the calls go on with a conversation
  // that is cached somewhere, half begin one.
  const calls = Array.from({ length: picks }, () => {
    const { replicaId } = replicas[randomInt(random, size)] ?? { replicaId: "" };
    return { replicaId, view: report(replicaId), promptBlocks: conversation(randomInt(random, conversations * 2)) };
  });
  let next = 0;
  return {
    pick() {
      const call = calls[next++ % picks];
      if (!call) return;
      views.set(call.replicaId, call.view);
      const result = routes.pick({
        model: "m",
        needs,
        promptBytes: promptBlocks * 256,
        promptBlocks: call.promptBlocks,
      });
      if (result.kind !== "picked") throw new Error(`a pick among ${size} ready replicas gave ${result.kind}`);
      const sent = result.picked.dispatched();
      sent.admitted(promptBlocks * 64);
      sent.firstToken();
      sent.ended();
    },
    scan() {
      let best = "";
      let bestLoad = Number.POSITIVE_INFINITY;
      for (const { replicaId } of replicas) {
        const view = views.get(replicaId);
        if (view?.state !== ReplicaState.READY || !view.capabilities?.generate) continue;
        const load = (view.load?.running ?? 0) + (view.load?.queued ?? 0) + view.inFlight;
        if (load >= bestLoad) continue;
        best = replicaId;
        bestLoad = load;
      }
      if (best === "") throw new Error("the scan found no replica");
    },
  };
}

function conversation(id: number): Uint32Array {
  return Uint32Array.from({ length: promptBlocks }, (_, block) =>
    block < sharedBlocks ? block + 1 : (Math.imul(id + 1, 0x9e3779b1) + Math.imul(block, 0x85ebca77)) >>> 0,
  );
}

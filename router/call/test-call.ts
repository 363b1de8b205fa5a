import { create, toBinary } from "@bufbuild/protobuf";
import { expect } from "vitest";
import { SnapshotSchema } from "#gen/helixmesh/discovery/v1/discovery_pb.ts";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { GenerateResponseSchema } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { type CallEnd, CallEndSchema, Method, ReplicaInfoSchema } from "#gen/helixmesh/link/v1/link_pb.ts";
import { EngineCapabilitiesSchema, ReplicaLoadSchema, ReplicaState } from "#gen/helixmesh/type/v1/type_pb.ts";
import { ManualClock } from "#kernel/clock.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { Metrics } from "#kernel/metrics.ts";
import { seededRandom } from "#kernel/random.ts";
import { startSpan } from "#kernel/trace.ts";
import { Queues } from "../admission/queues.ts";
import { Rooms } from "../admission/rooms.ts";
import { indexSnapshot } from "../discovery/snapshot.ts";
import { Health } from "../failure/health.ts";
import { Fleet } from "../routing/fleet.ts";
import { PrefixIndex } from "../routing/prefix-index.ts";
import { Routes } from "../routing/routes.ts";
import { routingMetrics } from "../routing/routing-metrics.ts";
import type { LinkFind, LinkResume, LinkStart } from "../link/call-queue.ts";
import { LinkCall, type LinkCallEvents } from "../link/link-call.ts";
import { LinkReplica } from "../link/link-replica.ts";
import { Call } from "./call.ts";
import { callMetrics } from "./call-metrics.ts";
import type { CallLinks, CallSettings } from "./call-parts.ts";
import { ResumableCalls } from "./resumable-calls.ts";
import { RecordingMemory, type RecordingSettings } from "./recording-memory.ts";
import type { Drawing } from "./continuity.ts";
import type { Settlement } from "./settle.ts";
import type { ResponseSink } from "./sink.ts";
import { WaitNotices } from "./wait-notices.ts";

/** What went out over a link. */
class Dispatched {
  readonly call: LinkCall;
  readonly clock: ManualClock;
  cancelled = false;

  constructor(replicaId: string, events: LinkCallEvents, clock: ManualClock) {
    const replica = new LinkReplica(create(ReplicaInfoSchema, { replicaId }));
    this.call = new LinkCall(1, replica, events, { cancel: () => void (this.cancelled = true) });
    this.clock = clock;
  }
}

/** Links under the test's control, in the place of the pool. */
class ScriptedLinks implements CallLinks {
  readonly ready = new Set<string>();
  /** Ready replicas whose batch is full. */
  readonly full = new Set<string>();
  readonly starts: (Dispatched & { readonly start: LinkStart })[] = [];
  readonly resumes: (Dispatched & { readonly resume: LinkResume })[] = [];
  readonly finds: LinkFind[] = [];
  readonly size = 4;
  /** The node of a held call can be asked. */
  reachable = true;
  readonly #listeners = new Set<() => void>();
  queues: Queues | undefined;
  /** Each in turn, from r1. */
  readonly routes: Routes;
  readonly fleet: Fleet;

  readonly #clock: ManualClock;
  readonly #forgetful: readonly string[];

  constructor(clock: ManualClock, snapshot: ReturnType<typeof discovered>, forgetful: readonly string[]) {
    this.#clock = clock;
    this.#forgetful = forgetful;
    const metrics = routingMetrics(new Metrics("test"));
    const random = seededRandom(1);
    const prefixes = new PrefixIndex({ maxEntries: 1_000, random, metrics });
    this.fleet = new Fleet({
      lookup: (nodeId, replicaId) => this.replica(nodeId, replicaId),
      prefixes,
      zone: "",
      zonePenaltyMs: 0,
      clock,
    });
    this.routes = new Routes({
      fleet: this.fleet,
      prefixes,
      policy: "round-robin",
      blockBytes: 256,
      clock,
      random,
      metrics,
    });
    this.fleet.follow(snapshot);
  }

  replica(_nodeId: string, replicaId: string) {
    if (!this.ready.has(replicaId)) return undefined;
    const seedByPosition = !this.#forgetful.includes(replicaId);
    const capabilities = create(EngineCapabilitiesSchema, {
      generate: true,
      seed: true,
      seedByPosition,
      parallelSequences: 4,
    });
    return { state: ReplicaState.READY, capabilities, load: this.full.has(replicaId) ? busy : undefined, inFlight: 0 };
  }

  start(_nodeId: string, start: LinkStart, events: LinkCallEvents) {
    // Copied, as a real link does.
    const relayed = start.relayed.map((response) => new Uint8Array(response));
    const dispatched = new Dispatched(start.replicaId, events, this.#clock);
    this.starts.push(Object.assign(dispatched, { start: { ...start, relayed } }));
    return dispatched.call;
  }

  find(call: LinkFind): void {
    this.finds.push(call);
  }

  resume(_nodeId: string, resume: LinkResume, events: LinkCallEvents) {
    if (!this.reachable) return undefined;
    const dispatched = new Dispatched(resume.replicaId, events, this.#clock);
    this.resumes.push(Object.assign(dispatched, { resume }));
    return dispatched.call;
  }

  onChange(listener: () => void) {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  change(...ready: string[]): void {
    this.ready.clear();
    for (const replicaId of ready) this.ready.add(replicaId);
    this.fleet.linkChanged();
    const listeners = [...this.#listeners];
    for (const listener of listeners) listener();
    this.queues?.changed();
  }

  get waiting(): number {
    return this.#listeners.size + (this.queues?.waiting ?? 0);
  }
}

/** Of a replica whose batch of four is full. */
const busy = create(ReplicaLoadSchema, { running: 4, queued: 1 });

function discovered(routing?: Options["routing"]) {
  return indexSnapshot(
    create(SnapshotSchema, {
      models: [{ name: "pocket" }],
      deployments: [{ name: "d", model: "pocket", ...(routing && { routing }) }],
      replicas: ["r1", "r2", "r3", "r4"].map((replicaId) => ({ replicaId, deployment: "d", nodeId: `n-${replicaId}` })),
    }),
  );
}

const defaults: CallSettings = {
  callTimeoutMs: 60_000,
  readyWaitMs: 10_000,
  cancelGraceMs: 1_000,
  resumeWaitMs: 2_000,
  firstTokenTimeoutMs: 20_000,
  interTokenTimeoutMs: 5_000,
  maxAttempts: 3,
  maxMoves: 3,
  maxBufferedBytes: 1_000,
};

/** A client under the test's control. */
class TestClient implements ResponseSink {
  readonly got: Uint8Array[] = [];
  /** How the answer ended. */
  end: { readonly kind: "finished" } | { readonly kind: "failed" | "cut"; readonly error: MeshError } | undefined;
  reads = true;
  /** Gets its answer whole, at the end. */
  whole = false;

  writeMessage(bytes: Uint8Array, start: number, end: number): boolean {
    this.got.push(new Uint8Array(bytes.subarray(start, end)));
    return this.reads;
  }
  finish(): void {
    this.#over({ kind: "finished" });
  }
  fail(error: MeshError): void {
    this.#over({ kind: "failed", error });
  }
  cut(error: MeshError): void {
    this.#over({ kind: "cut", error });
  }
  restart(): boolean {
    if (this.whole) this.got.length = 0;
    return this.whole;
  }
  #over(end: NonNullable<TestClient["end"]>): void {
    if (this.end) throw new Error("the answer ended twice");
    this.end = end;
  }
}

interface Options {
  readonly ready?: string[];
  readonly settings?: Partial<CallSettings>;
  readonly recordings?: Partial<RecordingSettings>;
  readonly timeoutMs?: number;
  readonly drawing?: Drawing;
  /** Replicas whose seeded draws depend on more than seed and position. */
  readonly forgetful?: readonly string[];
  /** It was another router's. */
  readonly resumes?: boolean;
  readonly asksPerSecond?: number;
  readonly routing?: { readonly hedgeAfterMs: number; readonly hedgePercent?: number };
}

/** A call that has begun, everything around it under the test's control. */
export function begin(options: Options = {}) {
  const clock = new ManualClock();
  const snapshot = discovered(options.routing);
  const links = new ScriptedLinks(clock, snapshot, options.forgetful ?? []);
  links.change(...(options.ready ?? []));
  const metrics = new Metrics("test");
  const random = seededRandom(1);
  const health = new Health({ settings: { ejectPercent: 30, retryPercent: 20 }, clock, random, metrics });
  const rooms = new Rooms({
    snapshot: () => snapshot,
    fleet: links.fleet,
    lookup: (nodeId, replicaId) => links.replica(nodeId, replicaId),
    avoided: () => health.avoided(),
  });
  const bounds = { maxEntries: 10, maxBytes: 10_000, maxWaitMs: 5_000, promoteAfterMs: 1_000 };
  const queues = new Queues({
    bounds,
    room: (deployment) => rooms.of(deployment),
    replicas: (deployment) => rooms.situationOfModelOf(deployment),
    clock,
    metrics,
  });
  links.queues = queues;
  const settlements: Settlement[] = [];
  const resumables = new ResumableCalls({ maxCalls: 2, asksPerSecond: options.asksPerSecond ?? 100, clock, metrics });
  const client = new TestClient();
  const permits = { released: 0 };
  const call = new Call(
    {
      settings: { ...defaults, ...options.settings },
      routes: links.routes,
      pool: links,
      settle: (settlement) => settlements.push(settlement),
      queues,
      rooms,
      notices: new WaitNotices(clock, rooms, metrics),
      health,
      recordings: new RecordingMemory(
        { maxMigrationBytes: 1_000, maxMigrationTotalBytes: 10_000, ...options.recordings },
        metrics,
      ),
      resumables,
      metrics: callMetrics(metrics),
      clock,
      random,
    },
    {
      context: {
        callId: "call-1",
        door: "grpc",
        principal: { keyId: "k", projectId: "p" },
        timeoutMs: options.timeoutMs,
        traceparent: undefined,
        ...(options.resumes && { resumes: true }),
      },
      method: Method.GENERATE,
      model: "pocket",
      request: new Uint8Array(),
      promptBlocks: undefined,
      drawing: options.drawing ?? "greedy",
      deployment: undefined,
      priority: 5,
      needs: [{ capability: "generate", parameter: "model" }],
      labels: {},
      sink: client,
      permit: { release: () => void (permits.released += 1) },
      span: startSpan("test", { kind: "server" }),
      startedAtMs: clock.nowMs(),
    },
  );
  call.begin();
  const ask = (index: number) => links.starts[index] ?? never();
  return { clock, links, resumables, settlements, client, permits, call, ask, metrics, health };
}

/** One step's news of a call, lent. */
export function send(
  { call, clock }: Pick<Dispatched, "call" | "clock">,
  responses: readonly Uint8Array[],
  tokens: number,
): void {
  for (const response of responses) {
    const lent = Buffer.concat([Buffer.from([0]), response]);
    call.onResponse(lent, 1, lent.length);
    lent.fill(0xff);
  }
  if (tokens > 0) call.onTokens(tokens, clock.monotonicMs());
}

function never(): never {
  throw new Error("the test expected one");
}

export const started = toBinary(
  GenerateResponseSchema,
  create(GenerateResponseSchema, { event: { case: "started", value: { promptTokens: 7 } } }),
);
export const delta = toBinary(
  GenerateResponseSchema,
  create(GenerateResponseSchema, { event: { case: "delta", value: { text: "a" } } }),
);
export const end = (reason: Reason, completionTokens = 0): CallEnd =>
  create(CallEndSchema, {
    reason,
    message: reason === 0 ? "" : "it failed.",
    usage: { promptTokens: 7, completionTokens },
  });

export const failed = (reason: Reason) => ({ kind: "failed", error: expect.objectContaining({ reason }) as unknown });

import { create, toBinary } from "@bufbuild/protobuf";
import { describe, expect, test } from "vitest";
import { SnapshotSchema } from "#gen/helixmesh/discovery/v1/discovery_pb.ts";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { GenerateResponseSchema } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { type CallEnd, CallEndSchema, Method } from "#gen/helixmesh/link/v1/link_pb.ts";
import { EngineCapabilitiesSchema, Outcome, ReplicaState } from "#gen/helixmesh/type/v1/type_pb.ts";
import { ManualClock } from "#kernel/clock.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { Metrics } from "#kernel/metrics.ts";
import { seededRandom } from "#kernel/random.ts";
import { startSpan } from "#kernel/trace.ts";
import { Queues } from "../admission/queues.ts";
import { Rooms } from "../admission/rooms.ts";
import { indexSnapshot } from "../discovery/snapshot.ts";
import { Health } from "../failure/health.ts";
import { PrefixIndex } from "../routing/prefix-index.ts";
import { Routes } from "../routing/routes.ts";
import { routingMetrics } from "../routing/routing-metrics.ts";
import type { LinkCallEvents, LinkStart } from "../link/link.ts";
import { Call } from "./call.ts";
import { callMetrics } from "./call-metrics.ts";
import type { CallLinks, CallSettings } from "./call-parts.ts";
import type { Settlement } from "./settle.ts";
import type { ResponseSink } from "./sink.ts";

/** Links under the test's control, in the place of the pool. */
class ScriptedLinks implements CallLinks {
  readonly ready = new Set<string>();
  readonly starts: { readonly start: LinkStart; readonly events: LinkCallEvents; cancelled: boolean }[] = [];
  readonly #listeners = new Set<() => void>();
  queues: Queues | undefined;
  /** Each in turn, from r1. */
  readonly routes: Routes;

  constructor(clock: ManualClock) {
    const metrics = routingMetrics(new Metrics("test"));
    const random = seededRandom(1);
    this.routes = new Routes({
      lookup: (nodeId, replicaId) => this.replica(nodeId, replicaId),
      prefixes: new PrefixIndex({ maxEntries: 1_000, random, metrics }),
      policy: "round-robin",
      blockBytes: 256,
      clock,
      random,
      metrics,
    });
    this.routes.follow(snapshot);
  }

  replica(_nodeId: string, replicaId: string) {
    if (!this.ready.has(replicaId)) return undefined;
    const capabilities = create(EngineCapabilitiesSchema, { generate: true });
    return { state: ReplicaState.READY, capabilities, load: undefined, inFlight: 0 };
  }

  start(_nodeId: string, start: LinkStart, events: LinkCallEvents) {
    const entry = { start, events, cancelled: false };
    this.starts.push(entry);
    return { cancel: () => void (entry.cancelled = true) };
  }

  onChange(listener: () => void) {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  change(...ready: string[]): void {
    this.ready.clear();
    for (const replicaId of ready) this.ready.add(replicaId);
    this.routes.linkChanged();
    const listeners = [...this.#listeners];
    for (const listener of listeners) listener();
    this.queues?.changed();
  }

  get waiting(): number {
    return this.#listeners.size + (this.queues?.waiting ?? 0);
  }
}

const snapshot = indexSnapshot(
  create(SnapshotSchema, {
    models: [{ name: "pocket" }],
    deployments: [{ name: "d", model: "pocket" }],
    replicas: ["r1", "r2", "r3"].map((replicaId) => ({ replicaId, deployment: "d", nodeId: `n-${replicaId}` })),
  }),
);

const defaults: CallSettings = {
  callTimeoutMs: 60_000,
  readyWaitMs: 10_000,
  cancelGraceMs: 1_000,
  maxAttempts: 3,
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

  write(bytes: Uint8Array, start: number, end: number): boolean {
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

function begin(options: { ready?: string[]; settings?: Partial<CallSettings>; timeoutMs?: number } = {}) {
  const clock = new ManualClock();
  const links = new ScriptedLinks(clock);
  links.change(...(options.ready ?? []));
  const metrics = new Metrics("test");
  const random = seededRandom(1);
  const health = new Health({ settings: { ejectPercent: 30, retryPercent: 20 }, clock, random, metrics });
  const rooms = new Rooms({
    snapshot: () => snapshot,
    replica: (nodeId, replicaId) => links.replica(nodeId, replicaId),
    avoided: () => health.avoided(),
  });
  const bounds = { maxEntries: 10, maxBytes: 10_000, maxWaitMs: 5_000, promoteAfterMs: 1_000 };
  const queues = new Queues({ bounds, room: (deployment) => rooms.of(deployment), clock, metrics });
  links.queues = queues;
  const settlements: Settlement[] = [];
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
      health,
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
      },
      method: Method.GENERATE,
      model: "pocket",
      request: new Uint8Array(),
      promptBlocks: undefined,
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
  return { clock, links, settlements, client, permits, call, ask };
}

/** One step's news of a call. */
function send({ events }: { readonly events: LinkCallEvents }, responses: readonly Uint8Array[], tokens: number): void {
  for (const response of responses) {
    const lent = Buffer.concat([Buffer.from([0]), response]);
    events.onResponse(lent, 1, lent.length);
    lent.fill(0xff);
  }
  if (tokens > 0) events.onTokens(tokens);
}

function never(): never {
  throw new Error("the test expected one");
}

const started = toBinary(
  GenerateResponseSchema,
  create(GenerateResponseSchema, { event: { case: "started", value: { promptTokens: 7 } } }),
);
const delta = toBinary(
  GenerateResponseSchema,
  create(GenerateResponseSchema, { event: { case: "delta", value: { text: "a" } } }),
);
const end = (reason: Reason, completionTokens = 0): CallEnd =>
  create(CallEndSchema, {
    reason,
    message: reason === 0 ? "" : "it failed.",
    usage: { promptTokens: 7, completionTokens },
  });

const failed = (reason: Reason) => ({ kind: "failed", error: expect.objectContaining({ reason }) as unknown });

describe("a call", () => {
  test("relays what the agent sends and is settled once with its count and times", () => {
    const { clock, settlements, permits, client, ask } = begin({ ready: ["r1"] });
    clock.advance(100);
    send(ask(0), [started], 0);
    send(ask(0), [delta], 1);
    clock.advance(50);
    send(ask(0), [delta, delta], 2);
    ask(0).events.onEnd(end(Reason.UNSPECIFIED, 3));
    expect(client.got).toEqual([started, delta, delta, delta]);
    expect(client.end).toEqual({ kind: "finished" });
    expect(permits.released).toBe(1);
    expect(clock.pendingTimers).toBe(0);
    expect(settlements).toMatchObject([
      {
        outcome: Outcome.COMPLETED,
        nodeId: "n-r1",
        promptTokens: 7,
        completionTokens: 3,
        ttftMs: 100,
        interTokenMs: 25,
        durationMs: 150,
        attempts: 1,
      },
    ]);
  });

  test.each([Reason.NODE_LOST, Reason.DRAINING, Reason.NO_READY_REPLICA, Reason.ENGINE_FAILED, Reason.OVERLOADED])(
    "goes elsewhere before the first token for reason %i, and sends Started once",
    (reason) => {
      const { settlements, client, ask } = begin({ ready: ["r1", "r2"] });
      send(ask(0), [started], 0);
      ask(0).events.onEnd(end(reason));
      expect(ask(1).start.replicaId).toBe("r2");
      send(ask(1), [started, delta], 1);
      ask(1).events.onEnd(end(Reason.UNSPECIFIED, 1));
      expect(client.got).toEqual([started, delta]);
      expect(client.end).toEqual({ kind: "finished" });
      expect(settlements).toMatchObject([{ outcome: Outcome.COMPLETED, nodeId: "n-r2", attempts: 2 }]);
    },
  );

  test.each([Reason.INVALID_REQUEST, Reason.CONTEXT_LENGTH_EXCEEDED, Reason.INTERNAL])(
    "does not go elsewhere for reason %i",
    (reason) => {
      const { links, settlements, client, ask } = begin({ ready: ["r1", "r2"] });
      ask(0).events.onEnd(end(reason));
      expect(client.end).toEqual(failed(reason));
      expect(links.starts).toHaveLength(1);
      expect(settlements).toMatchObject([{ outcome: Outcome.FAILED, attempts: 1 }]);
    },
  );

  test("does not go elsewhere after output has reached the client", () => {
    const { links, client, ask } = begin({ ready: ["r1", "r2"] });
    send(ask(0), [started, delta], 1);
    ask(0).events.onEnd(end(Reason.NODE_LOST));
    expect(client.end).toEqual(failed(Reason.NODE_LOST));
    expect(links.starts).toHaveLength(1);
  });

  test("is dispatched at most as often as the setting says", () => {
    const { links, settlements, client, ask } = begin({ ready: ["r1", "r2", "r3"], settings: { maxAttempts: 2 } });
    ask(0).events.onEnd(end(Reason.ENGINE_FAILED));
    ask(1).events.onEnd(end(Reason.ENGINE_FAILED));
    expect(client.end).toEqual(failed(Reason.ENGINE_FAILED));
    expect(links.starts).toHaveLength(2);
    expect(settlements).toMatchObject([{ attempts: 2 }]);
  });

  test("fails at once as overloaded when every replica is full", () => {
    const { client, ask, settlements } = begin({ ready: ["r1"] });
    ask(0).events.onEnd(end(Reason.OVERLOADED));
    expect(client.end).toEqual(failed(Reason.OVERLOADED));
    expect(settlements).toHaveLength(1);
  });

  test("waits for the engine of its only replica to come back", () => {
    const { clock, links, ask, settlements } = begin({ ready: ["r1"] });
    links.change();
    ask(0).events.onEnd(end(Reason.ENGINE_FAILED));
    clock.advance(4_000);
    expect(links.starts).toHaveLength(1);
    links.change("r1");
    ask(1).events.onEnd(end(Reason.UNSPECIFIED));
    expect(settlements).toMatchObject([{ outcome: Outcome.COMPLETED, attempts: 2, waitedMs: 4_000 }]);
  });

  test("pauses before it asks a replica again that says it is ready and fails", () => {
    const { clock, links, ask } = begin({ ready: ["r1"] });
    ask(0).events.onEnd(end(Reason.ENGINE_FAILED));
    expect(links.starts).toHaveLength(1);
    clock.advance(25);
    expect(links.starts).toHaveLength(2);
  });

  test("waits for a first replica, and gives up when the time for waiting is spent", () => {
    const patient = begin();
    patient.clock.advance(9_999);
    patient.links.change("r2");
    expect(patient.ask(0).start.replicaId).toBe("r2");

    const { clock, links, client, settlements } = begin();
    clock.advance(10_000);
    expect(client.end).toEqual(failed(Reason.NO_READY_REPLICA));
    expect(links.waiting).toBe(0);
    expect(clock.pendingTimers).toBe(0);
    expect(settlements).toMatchObject([{ outcome: Outcome.FAILED, nodeId: "", attempts: 0, waitedMs: 10_000 }]);
  });

  test("ends at the client's deadline, cancels the agent and counts what it had generated", () => {
    const { clock, client, ask, settlements, permits } = begin({ ready: ["r1"], timeoutMs: 500 });
    send(ask(0), [started, delta], 1);
    clock.advance(500);
    expect(client.end).toEqual(failed(Reason.DEADLINE_EXCEEDED));
    expect(ask(0).cancelled).toBe(true);
    expect(settlements).toHaveLength(0);
    ask(0).events.onEnd(end(Reason.CANCELLED, 4));
    expect(settlements).toMatchObject([
      { outcome: Outcome.FAILED, completionTokens: 4, error: { reason: Reason.DEADLINE_EXCEEDED } },
    ]);
    expect(permits.released).toBe(1);
  });

  test.each([
    [500, 450, Outcome.FAILED],
    [500, 390, Outcome.CANCELLED],
    [60, 31, Outcome.FAILED],
    [60, 29, Outcome.CANCELLED],
    [undefined, 450, Outcome.CANCELLED],
  ])("with %s ms to go whose client leaves after %s ms has outcome %s", (timeoutMs, afterMs, outcome) => {
    const { clock, call, ask, settlements } = begin({
      ready: ["r1"],
      ...(timeoutMs !== undefined && { timeoutMs }),
    });
    clock.advance(afterMs);
    call.abort();
    ask(0).events.onEnd(end(Reason.CANCELLED, 1));
    expect(settlements).toMatchObject([{ outcome }]);
  });

  test("that is aborted because the router drains fails as draining", () => {
    const { call, client, ask, settlements } = begin({ ready: ["r1"] });
    call.abort(new MeshError(Reason.DRAINING, "The router stops."));
    expect(client.end).toEqual(failed(Reason.DRAINING));
    ask(0).events.onEnd(end(Reason.CANCELLED, 1));
    expect(settlements).toMatchObject([{ outcome: Outcome.FAILED, error: { reason: Reason.DRAINING } }]);
  });

  test("that waits ends at its deadline too", () => {
    const { clock, client, settlements } = begin({ timeoutMs: 500 });
    clock.advance(500);
    expect(client.end).toEqual(failed(Reason.DEADLINE_EXCEEDED));
    expect(settlements).toHaveLength(1);
    expect(clock.pendingTimers).toBe(0);
  });

  test("whose client leaves is settled with the agent's count, or after a grace with its own", () => {
    const answered = begin({ ready: ["r1"] });
    send(answered.ask(0), [started, delta], 1);
    answered.call.abort();
    expect(answered.ask(0).cancelled).toBe(true);
    answered.ask(0).events.onEnd(end(Reason.CANCELLED, 2));
    expect(answered.settlements).toMatchObject([{ outcome: Outcome.CANCELLED, completionTokens: 2 }]);

    const silent = begin({ ready: ["r1"] });
    send(silent.ask(0), [started, delta], 1);
    silent.call.abort();
    silent.clock.advance(1_000);
    silent.ask(0).events.onEnd(end(Reason.CANCELLED, 2));
    expect(silent.settlements).toMatchObject([{ outcome: Outcome.CANCELLED, promptTokens: 7, completionTokens: 1 }]);
    expect(silent.clock.pendingTimers).toBe(0);
  });

  test("keeps what its client does not take, and gives it when the client goes on", () => {
    const { call, client, ask, settlements } = begin({ ready: ["r1"] });
    client.reads = false;
    send(ask(0), [started, delta], 1);
    send(ask(0), [delta], 1);
    ask(0).events.onEnd(end(Reason.UNSPECIFIED, 2));
    expect(client.got).toEqual([started]);
    expect(settlements).toMatchObject([{ outcome: Outcome.COMPLETED }]);
    client.reads = true;
    call.resume();
    expect(client.got).toEqual([started, delta, delta]);
    expect(client.end).toEqual({ kind: "finished" });
  });

  test("is cut when its client leaves more unread than the bound", () => {
    const { client, ask, settlements } = begin({ ready: ["r1"], settings: { maxBufferedBytes: 3 * delta.length } });
    client.reads = false;
    for (let step = 0; step < 5; step++) send(ask(0), [delta], 1);
    expect(ask(0).cancelled).toBe(true);
    expect(client.end).toEqual({ ...failed(Reason.RATE_LIMITED), kind: "cut" });
    ask(0).events.onEnd(end(Reason.CANCELLED, 5));
    expect(settlements).toMatchObject([{ outcome: Outcome.FAILED, completionTokens: 5 }]);
  });

  test("begins anew after output when its client gets the answer whole", () => {
    const { client, ask, settlements } = begin({ ready: ["r1", "r2"] });
    client.whole = true;
    send(ask(0), [started, delta, delta], 2);
    ask(0).events.onEnd(end(Reason.NODE_LOST));
    send(ask(1), [started, delta], 1);
    ask(1).events.onEnd(end(Reason.UNSPECIFIED));
    expect(client.got).toEqual([started, delta]);
    expect(client.end).toEqual({ kind: "finished" });
    expect(settlements).toMatchObject([{ outcome: Outcome.COMPLETED, attempts: 2, completionTokens: 1 }]);
  });

  test("does not call an answer incomplete that its client never saw", () => {
    const { client, ask } = begin({ ready: ["r1"], settings: { maxAttempts: 1 } });
    client.whole = true;
    send(ask(0), [started, delta], 1);
    ask(0).events.onEnd(end(Reason.NODE_LOST));
    expect(client.end).toMatchObject({ kind: "failed", error: { message: "it failed." } });
  });

  test("that is aborted while it waits is settled as cancelled and dispatched nowhere", () => {
    const { call, client, links, settlements } = begin({ ready: [] });
    call.abort();
    links.change("r1");
    expect(links.starts).toHaveLength(0);
    expect(client.end).toEqual(failed(Reason.CANCELLED));
    expect(settlements).toMatchObject([{ outcome: Outcome.CANCELLED, attempts: 0 }]);
  });
});

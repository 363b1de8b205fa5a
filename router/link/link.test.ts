import { type MessageInitShape, create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { describe, expect, test } from "vitest";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import {
  type CallEnd,
  type ConnectRequest,
  ConnectRequestSchema,
  ConnectResponseSchema,
  Method,
} from "#gen/helixmesh/link/v1/link_pb.ts";
import { ReplicaState } from "#gen/helixmesh/type/v1/type_pb.ts";
import { Backoff } from "#kernel/backoff.ts";
import { ManualClock } from "#kernel/clock.ts";
import { silentLogger } from "#kernel/log.ts";
import { Metrics } from "#kernel/metrics.ts";
import { seededRandom } from "#kernel/random.ts";
import type { LinkStart } from "./call-queue.ts";
import { Link } from "./link.ts";
import { linkMetrics } from "./link-metrics.ts";
import type { LinkEvents, LinkTransport } from "./transport.ts";

interface Connection {
  readonly events: LinkEvents;
  readonly sent: ConnectRequest[];
  closed: boolean;
  /** The agent does not read. */
  full: boolean;
}

const ready = { replicaId: "r1", state: ReplicaState.READY, capabilities: { generate: true } };

function open() {
  const clock = new ManualClock();
  const connections: Connection[] = [];
  let changes = 0;
  const held = new Array<[callId: string, released: boolean]>();
  const prefixes = new Array<{ sequence: bigint; blockBytes: number }>();
  let nextSequence = 1n;
  let forgotten = 0;
  const transport: LinkTransport = (_target, events) => {
    const connection: Connection = { events, sent: [], closed: false, full: false };
    connections.push(connection);
    return {
      get writable() {
        return !connection.full;
      },
      send: (bytes, start, end) =>
        void connection.sent.push(fromBinary(ConnectRequestSchema, Uint8Array.from(bytes.subarray(start, end)))),
      close: () => void (connection.closed = true),
    };
  };
  const link = new Link({
    nodeId: "node-1",
    target: { address: "127.0.0.1:1", token: "t" },
    routerId: "router",
    instanceId: "router_1",
    transport,
    connectTimeoutMs: 2_000,
    patienceMs: 1_000,
    backoff: new Backoff({ initialMs: 100, maxMs: 1_000 }, seededRandom(1)),
    clock,
    logger: silentLogger,
    metrics: linkMetrics(new Metrics("test")),
    onChange: () => void (changes += 1),
    onPrefixes({ sequence, snapshot }, blockBytes) {
      prefixes.push({ sequence, blockBytes });
      if (!snapshot && sequence !== nextSequence) return "gap";
      nextSequence = sequence + 1n;
      return "ok";
    },
    onHeld: ({ callId, released }) => void held.push([callId, released]),
    onForget: () => void (forgotten += 1),
    onLoad() {},
  });
  link.open();
  const last = (): Connection => connections.at(-1) ?? never();
  const receive = (frame: MessageInitShape<typeof ConnectResponseSchema>["frame"] & object): void => {
    const bytes = Buffer.from(toBinary(ConnectResponseSchema, create(ConnectResponseSchema, { frame })));
    last().events.onMessage(bytes, 0, bytes.length);
  };
  const greet = (
    hello: Partial<Record<"version" | "prefixBlockBytes" | "busyHeartbeatIntervalMs", number>> & {
      nodeId?: string;
      heldCalls?: { callId: string }[];
    } = {},
  ): void =>
    receive({
      case: "hello",
      value: { version: 1, nodeId: "node-1", heartbeatIntervalMs: 1_000, replicas: [ready], ...hello },
    });
  return {
    clock,
    link,
    connections,
    last,
    receive,
    greet,
    prefixes,
    held,
    changes: () => changes,
    forgotten: () => forgotten,
  };
}

function never(): never {
  throw new Error("the test expected one");
}

function startCall(link: Link) {
  const heard = { responses: 0, ends: new Array<CallEnd>() };
  const call = link.start(start, {
    onResponse: () => void (heard.responses += 1),
    onEnd: (end) => void heard.ends.push(end),
  });
  return { call, heard };
}

const start: LinkStart = {
  callId: "c",
  replicaId: "r1",
  method: Method.GENERATE,
  request: new Uint8Array(),
  timeoutMs: 1_000,
  traceparent: "",
  model: "m",
  deployment: "d",
  relayed: [],
  keyId: "k",
  startedAtMs: 1,
  attempt: 1,
};

const turn = () => new Promise((resolve) => setImmediate(resolve));

describe("a link", () => {
  test("says hello first and knows replicas after the agent's hello", () => {
    const { link, last, greet } = open();
    expect(last().sent.map(({ frame }) => frame)).toMatchObject([
      { case: "hello", value: { versions: [1], routerId: "router" } },
    ]);
    expect(link.replica("r1")).toBeUndefined();
    greet();
    expect(link.replica("r1")).toMatchObject({ state: ReplicaState.READY, inFlight: 0 });
  });

  test("knows how far a replica's loading is, which changes nothing for who may be called", () => {
    const { link, greet, receive, changes } = open();
    greet();
    const tell = (state: ReplicaState, progress?: number): void =>
      receive({
        case: "step",
        value: { replicas: [{ replicaId: "r1", state, ...(progress !== undefined && { progress }) }] },
      });
    tell(ReplicaState.LOADING, 0.25);
    const before = changes();
    tell(ReplicaState.LOADING, 0.5);
    expect(link.replica("r1")).toMatchObject({ state: ReplicaState.LOADING, progress: 0.5 });
    expect(changes()).toBe(before);
    tell(ReplicaState.READY);
    expect(link.replica("r1")).toMatchObject({ state: ReplicaState.READY, progress: undefined });
    expect(changes()).toBe(before + 1);
  });

  test("sends the starts and cancels of one turn in one batch, with numbers of its own", async () => {
    const { link, last, greet } = open();
    greet();
    const first = startCall(link);
    startCall(link);
    first.call?.cancel();
    await turn();
    expect(
      last()
        .sent.slice(1)
        .map(({ frame }) => frame),
    ).toMatchObject([{ case: "calls", value: { starts: [{ number: 1 }, { number: 2 }], cancels: [1] } }]);
    expect(link.replica("r1")?.inFlight).toBe(2);
  });

  test("gives the deltas of a step to their calls by number and ignores unknown numbers", () => {
    const { link, greet, receive } = open();
    greet();
    const first = startCall(link);
    const second = startCall(link);
    const response = new Uint8Array([1]);
    receive({
      case: "step",
      value: {
        deltas: [
          { number: 1, responses: [response], completionTokens: 1 },
          { number: 2, responses: [response, response], completionTokens: 2, end: {} },
          { number: 99, responses: [response], end: {} },
        ],
      },
    });
    expect(first).toMatchObject({ heard: { responses: 1, ends: [] }, call: { tokens: 1 } });
    expect(second).toMatchObject({
      heard: { responses: 2, ends: [{ reason: Reason.UNSPECIFIED }] },
      call: { tokens: 2 },
    });
    expect(link.replica("r1")?.inFlight).toBe(1);
  });

  test("keeps the last load and state of each replica", () => {
    const { link, greet, receive, changes } = open();
    greet();
    const before = changes();
    receive({ case: "step", value: { loads: [{ replicaId: "r1", running: 4 }] } });
    expect(link.replica("r1")?.load?.running).toBe(4);
    receive({ case: "step", value: { replicas: [{ ...ready, state: ReplicaState.FAILED }] } });
    expect(link.replica("r1")).toMatchObject({ state: ReplicaState.FAILED, load: { running: 4 } });
    expect(changes()).toBe(before + 1);
    expect(startCall(link).call).toBeUndefined();
  });

  test("is lost after three silent heartbeats, ends its calls and comes back after a pause", () => {
    const { link, clock, connections, greet, receive } = open();
    greet();
    const { heard } = startCall(link);
    clock.advance(2_000);
    receive({ case: "step", value: {} });
    clock.advance(2_999);
    expect(link.kind).toBe("up");
    clock.advance(2);
    expect(link.kind).toBe("waiting");
    expect(heard.ends).toMatchObject([{ reason: Reason.NODE_LOST }]);
    expect(connections[0]?.closed).toBe(true);
    clock.advance(100);
    expect(connections).toHaveLength(2);
    greet();
    expect(link.replica("r1")?.inFlight).toBe(0);
  });

  test("is not lost when its router was held up and the agent's word was waiting in the socket", () => {
    const { link, clock, greet, receive } = open();
    greet();
    clock.advance(3_000);
    receive({ case: "step", value: {} });
    clock.advance(1);
    expect(link.kind).toBe("up");
  });

  const running = { replicaId: "r1", running: 1, stepTimeUs: 10_000 };

  test("with running calls of a known pace is lost after two of the heartbeats that are due then", () => {
    const { link, clock, greet, receive } = open();
    greet({ busyHeartbeatIntervalMs: 600 });
    receive({ case: "step", value: { loads: [running] } });
    clock.advance(500);
    startCall(link);
    clock.advance(900);
    receive({ case: "step", value: { deltas: [{ number: 1, completionTokens: 1 }] } });
    clock.advance(1_199);
    expect(link.kind).toBe("up");
    clock.advance(2);
    expect(link.kind).toBe("waiting");
  });

  test("is not lost for what its agent need not say before the first call", () => {
    const { link, clock, greet, receive } = open();
    greet({ busyHeartbeatIntervalMs: 500 });
    receive({ case: "step", value: { loads: [running] } });
    clock.advance(1_900);
    startCall(link);
    clock.advance(999);
    expect(link.kind).toBe("up");
    clock.advance(2);
    expect(link.kind).toBe("waiting");
  });

  test("is given the router's patience, and an older agent the heartbeats that it knows", () => {
    for (const { busyHeartbeatIntervalMs, limitMs } of [
      { busyHeartbeatIntervalMs: 100, limitMs: 1_000 },
      { busyHeartbeatIntervalMs: 0, limitMs: 2_000 },
    ]) {
      const { link, clock, greet, receive } = open();
      greet({ busyHeartbeatIntervalMs });
      receive({ case: "step", value: { loads: [running] } });
      startCall(link);
      clock.advance(limitMs - 1);
      expect(link.kind).toBe("up");
      clock.advance(2);
      expect(link.kind).toBe("waiting");
    }
  });

  test.each([
    ["whose step takes longer than a heartbeat", { ...running, stepTimeUs: 2_000_000 }],
    ["whose pace is not known", { ...running, stepTimeUs: 0 }],
  ])("with running calls %s is given three heartbeats", (_which, load) => {
    const { link, clock, greet, receive } = open();
    greet();
    startCall(link);
    receive({ case: "step", value: { loads: [load] } });
    clock.advance(2_999);
    expect(link.kind).toBe("up");
    clock.advance(2);
    expect(link.kind).toBe("waiting");
  });

  test("holds what its agent does not read, and sends it in starts of a mebibyte when it reads again", async () => {
    const { link, last, greet } = open();
    greet();
    last().full = true;
    const request = new Uint8Array(400_000);
    for (let count = 0; count < 5; count++) link.start({ ...start, request }, { onResponse() {}, onEnd() {} });
    startCall(link).call?.cancel();
    await turn();
    expect(last().sent).toHaveLength(1);
    last().full = false;
    last().events.onWritable();
    await turn();
    const batches = last()
      .sent.slice(1)
      .map(({ frame }) => frame)
      .filter((frame) => frame.case === "calls");
    expect(batches.map(({ value }) => value.starts.map(({ number }) => number))).toEqual([
      [1, 2],
      [3, 4],
      [5, 6],
    ]);
    expect(batches.map(({ value }) => value.cancels)).toEqual([[], [], [6]]);
  });

  test("passes prefix digests on, asks for a snapshot after a gap, and forgets them with the link", async () => {
    const { link, last, greet, receive, prefixes, forgotten } = open();
    greet({ prefixBlockBytes: 256 });
    const digest = (sequence: bigint) => ({ replicaId: "r1", sequence, added: [1, 2] });
    receive({ case: "step", value: { prefixes: [{ ...digest(1n), snapshot: true }] } });
    receive({ case: "step", value: { prefixes: [digest(2n), digest(4n)] } });
    await turn();
    expect(prefixes).toEqual([1n, 2n, 4n].map((sequence) => ({ sequence, blockBytes: 256 })));
    expect(last().sent.at(-1)?.frame).toMatchObject({ case: "calls", value: { resendPrefixes: ["r1"] } });
    expect(forgotten()).toBe(0);
    last().events.onEnd(undefined);
    expect(forgotten()).toBe(1);
    link.close();
    expect(forgotten()).toBe(1);
  });

  test("says which process it is, hears of held calls, and takes one up under a number of its own", async () => {
    const { link, last, greet, receive, held } = open();
    expect(last().sent[0]?.frame).toMatchObject({ case: "hello", value: { instanceId: "router_1" } });
    const resume = { callId: "a", keyId: "k", replicaId: "r1", requestSha256: Uint8Array.of(1) };
    const heard: unknown[] = [];
    const events = {
      onResponse: (bytes: Uint8Array, from: number, to: number) => void heard.push([...bytes.subarray(from, to)]),
      onEnd: ({ reason }: CallEnd) => void heard.push({ reason }),
    };
    expect(link.resume(resume, events)).toBeUndefined();
    greet({ heldCalls: [{ callId: "a" }] });
    receive({ case: "step", value: { heldCalls: [{ callId: "b" }, { callId: "a", released: true }] } });
    expect(held).toEqual([
      ["a", false],
      ["b", false],
      ["a", true],
    ]);
    startCall(link);
    expect(link.resume({ ...resume, replicaId: "unknown" }, events)).toBeUndefined();
    const call = link.resume(resume, events);
    call?.cancel();
    await turn();
    const { replicaId: _, ...sent } = resume;
    const calls = { starts: [{ number: 1 }], resumes: [{ number: 2, ...sent }], cancels: [2] };
    expect(last().sent.at(-1)?.frame).toMatchObject({ case: "calls", value: calls });
    const delta = { number: 2, responses: [Uint8Array.of(7)], completionTokens: 3, end: { reason: Reason.CANCELLED } };
    receive({ case: "step", value: { deltas: [delta] } });
    expect(heard).toEqual([[7], { reason: Reason.CANCELLED }]);
    expect(call?.tokens).toBe(3);
  });

  test("ignores what an old stream still says", () => {
    const { link, clock, connections, greet } = open();
    greet();
    connections[0]?.events.onEnd(new Error("reset"));
    clock.advance(100);
    connections[0]?.events.onEnd(new Error("again"));
    expect(link.kind).toBe("greeting");
  });

  test("gives up on an agent that does not say hello, and tries again later and later", () => {
    const { clock, connections } = open();
    clock.advance(2_000);
    expect(connections[0]?.closed).toBe(true);
    clock.advance(100);
    expect(connections).toHaveLength(2);
    clock.advance(2_000 + 200);
    expect(connections).toHaveLength(3);
  });

  test.each([{ version: 2 }, { nodeId: "another" }])("refuses an agent that answers %j", (hello) => {
    const { link, greet } = open();
    greet(hello);
    expect(link.kind).toBe("waiting");
  });

  test("takes no new calls while its agent drains, and finishes those it has", () => {
    const { link, greet, receive } = open();
    greet();
    const { heard } = startCall(link);
    receive({ case: "drain", value: { timeoutMs: 1_000n } });
    expect(link.replica("r1")).toBeUndefined();
    receive({ case: "step", value: { deltas: [{ number: 1, end: {} }] } });
    expect(heard.ends).toMatchObject([{ reason: Reason.UNSPECIFIED }]);
  });

  test("that is retired closes after its last call, unless it is taken back", () => {
    const { link, greet, receive, last } = open();
    greet();
    startCall(link);
    startCall(link);
    link.retire();
    expect(link.replica("r1")).toBeUndefined();
    expect(link.unretire()).toBe(true);
    expect(link.replica("r1")).toBeDefined();
    link.retire();
    receive({ case: "step", value: { deltas: [{ number: 1, end: {} }] } });
    expect(link.kind).toBe("up");
    receive({ case: "step", value: { deltas: [{ number: 2, end: {} }] } });
    expect(link.kind).toBe("closed");
    expect(last().closed).toBe(true);
    expect(link.unretire()).toBe(false);
  });

  test("that is closed ends its calls and leaves no timer", () => {
    const { link, clock, greet } = open();
    greet();
    const { heard } = startCall(link);
    link.close();
    expect(heard.ends).toMatchObject([{ reason: Reason.NODE_LOST }]);
    expect(clock.pendingTimers).toBe(0);
  });
});

import { type MessageInitShape, create } from "@bufbuild/protobuf";
import { describe, expect, test } from "vitest";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { type CallEnd, type ConnectRequest, ConnectResponseSchema, Method } from "#gen/helixmesh/link/v1/link_pb.ts";
import { ReplicaState } from "#gen/helixmesh/type/v1/type_pb.ts";
import { Backoff } from "#kernel/backoff.ts";
import { ManualClock } from "#kernel/clock.ts";
import { silentLogger } from "#kernel/log.ts";
import { Metrics } from "#kernel/metrics.ts";
import { seededRandom } from "#kernel/random.ts";
import { Link, type LinkStart } from "./link.ts";
import { linkMetrics } from "./link-metrics.ts";
import type { LinkEvents, LinkTransport } from "./transport.ts";

interface Connection {
  readonly events: LinkEvents;
  readonly sent: ConnectRequest[];
  closed: boolean;
}

const ready = { replicaId: "r1", state: ReplicaState.READY, capabilities: { generate: true } };

function open() {
  const clock = new ManualClock();
  const connections: Connection[] = [];
  let changes = 0;
  const transport: LinkTransport = (_target, events) => {
    const connection: Connection = { events, sent: [], closed: false };
    connections.push(connection);
    return { send: (message) => void connection.sent.push(message), close: () => void (connection.closed = true) };
  };
  const link = new Link({
    nodeId: "node-1",
    target: { address: "127.0.0.1:1", token: "t" },
    routerId: "router",
    transport,
    connectTimeoutMs: 2_000,
    backoff: new Backoff({ initialMs: 100, maxMs: 1_000 }, seededRandom(1)),
    clock,
    logger: silentLogger,
    metrics: linkMetrics(new Metrics("test")),
    onChange: () => void (changes += 1),
  });
  link.open();
  const last = (): Connection => connections.at(-1) ?? never();
  const receive = (frame: MessageInitShape<typeof ConnectResponseSchema>["frame"] & object): void =>
    last().events.onMessage(create(ConnectResponseSchema, { frame }));
  const greet = (hello: { version?: number; nodeId?: string } = {}): void =>
    receive({
      case: "hello",
      value: { version: 1, nodeId: "node-1", heartbeatIntervalMs: 1_000, replicas: [ready], ...hello },
    });
  return { clock, link, connections, last, receive, greet, changes: () => changes };
}

function never(): never {
  throw new Error("the test expected one");
}

function startCall(link: Link) {
  const heard = { responses: 0, tokens: 0, ends: new Array<CallEnd>() };
  const call = link.start(start, {
    onResponse: () => void (heard.responses += 1),
    onTokens: (count) => void (heard.tokens += count),
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
    expect(first.heard).toMatchObject({ responses: 1, tokens: 1, ends: [] });
    expect(second.heard).toMatchObject({ responses: 2, tokens: 2, ends: [{ reason: Reason.UNSPECIFIED }] });
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

import { createHash } from "node:crypto";
import { type AddressInfo, type Socket, connect, createServer } from "node:net";
import { fromBinary } from "@bufbuild/protobuf";
import * as grpc from "@grpc/grpc-js";
import { afterEach, describe, expect, test } from "vitest";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import {
  CountTokensRequestSchema,
  CountTokensResponseSchema,
  EmbedRequestSchema,
  EmbedResponseSchema,
  FinishReason,
} from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { type ConnectResponse, Method } from "#gen/helixmesh/link/v1/link_pb.ts";
import { Outcome, ReplicaState } from "#gen/helixmesh/type/v1/type_pb.ts";
import { TestNode, generate } from "./test-node.ts";
import { type TestRouter, encode } from "./test-router.ts";

const nodes: TestNode[] = [];
const closers: (() => void)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0)) close();
  await Promise.all(nodes.splice(0).map((node) => node.close()));
});
function startNode(
  overrides?: ConstructorParameters<typeof TestNode>[0],
  engineOptions?: Record<string, string>,
): Promise<TestNode> {
  const node = new TestNode(overrides);
  nodes.push(node);
  return node.start(engineOptions);
}

describe("the link", () => {
  test("answers the hello with the node, the version and the replicas", async () => {
    const node = await startNode();
    const router = node.router();
    const { frame } = await router.hello([7, 1]);
    expect(frame).toMatchObject({ case: "hello", value: { version: 1, nodeId: "node-1", heartbeatIntervalMs: 1_000 } });
    expect(frame.case === "hello" && frame.value.replicas.map((replica) => replica.replicaId)).toEqual(["r1"]);
  });

  test("says how far the loading of a replica is, in the hello and as it goes on, and of one that is ready nothing", async () => {
    const node = await startNode({}, { time_scale: "1", load_ms: "20000" });
    const router = node.router();
    await router.hello();
    const shares = () =>
      router.frames
        .flatMap(({ frame }) => (frame.case === "step" ? frame.value.replicas : []))
        .flatMap(({ state, progress = -1 }) => (state === ReplicaState.LOADING ? [progress] : []));
    await router.frame(() => shares().length > 3);
    const [first = 0, ...more] = shares();
    expect(first).toBeLessThan(0.5);
    let before = first;
    for (const share of more) {
      expect(share).toBeGreaterThan(before + 0.0099);
      before = share;
    }
    const { frame } = await node.router().hello();
    expect(frame).toMatchObject({
      value: { replicas: [{ state: ReplicaState.LOADING, progress: expect.any(Number) }] },
    });
    const ready = await startNode();
    await ready.readyRouter();
    const late = await ready.router().hello();
    const infos = late.frame.case === "hello" ? late.frame.value.replicas : [];
    expect(infos.map(({ state, progress }) => [state, progress])).toEqual([[ReplicaState.READY, undefined]]);
  });

  test("refuses a wrong token, a wrong version and a first message that is no hello", async () => {
    const node = await startNode();
    const intruder = node.router("wrong");
    const stranger = node.router();
    const rude = node.router();
    void stranger.hello([2]);
    rude.cancel(1);
    expect((await intruder.ended).code).toBe(grpc.status.UNAUTHENTICATED);
    expect((await stranger.ended).code).toBe(grpc.status.FAILED_PRECONDITION);
    expect((await rude.ended).code).toBe(grpc.status.INVALID_ARGUMENT);
  });

  test("streams a call as Started, deltas, Finished and one end with the usage", async () => {
    const node = await startNode();
    const router = await node.readyRouter();
    const call = router.start(generate());
    const end = await call.ended;
    const events = call.generated().map(({ event }) => event);
    expect(events[0]).toMatchObject({ case: "started", value: { model: "m", nodeId: "node-1", promptTokens: 4 } });
    expect(events.at(-1)).toMatchObject({ case: "finished", value: { finishReasons: [FinishReason.LENGTH] } });
    expect(events.at(-2)).toMatchObject({ case: "delta", value: { finishReason: FinishReason.LENGTH } });
    expect(end).toMatchObject({ reason: Reason.UNSPECIFIED, usage: { promptTokens: 4, completionTokens: 20 } });
    expect(call.tokens()).toBe(20);
    expect(node.usage).toMatchObject([{ model: "m", outcome: Outcome.COMPLETED, usage: { completionTokens: 20 } }]);
  });

  test("puts the deltas of one step for all calls into one message", async () => {
    const node = await startNode({}, { time_scale: "1", step_base_us: "2000" });
    const router = await node.readyRouter();
    const calls = router.startAll(Array.from({ length: 50 }, () => generate()));
    await Promise.all(calls.map((call) => call.ended));
    const steps = router.frames.filter(({ frame }) => frame.case === "step" && frame.value.deltas.length > 0);
    expect(steps.some(({ frame }) => frame.case === "step" && frame.value.deltas.length === 50)).toBe(true);
    expect(new Set(calls.map((call) => call.text())).size).toBe(1);
  });

  test("merges choices into one call: one Started, one prompt, one Finished", async () => {
    const node = await startNode();
    const router = await node.readyRouter();
    const call = router.start(generate({ choiceCount: 3, sampling: { temperature: 1, seed: 5n } }));
    const single = router.start(generate({ sampling: { temperature: 1, seed: 7n } }));
    const end = await call.ended;
    await single.ended;
    const kinds = call.generated().map(({ event }) => event.case);
    expect(kinds.filter((kind) => kind !== "delta")).toEqual(["started", "finished"]);
    expect(end.usage).toMatchObject({ promptTokens: 4, completionTokens: 60 });
    expect(call.text(2)).toBe(single.text());
    expect(new Set([call.text(0), call.text(1), call.text(2)]).size).toBe(3);
    expect(node.usage).toHaveLength(2);
  });

  test("repeats the prompt at the head of each choice when asked to", async () => {
    const node = await startNode();
    const router = await node.readyRouter();
    const plain = router.start(generate());
    const echoed = router.start(generate({ echo: true, choiceCount: 2 }));
    await Promise.all([plain.ended, echoed.ended]);
    expect([echoed.text(0), echoed.text(1)]).toEqual([0, 1].map(() => `Tell me a story.${plain.text()}`));
  });

  test("ends a cancelled call with what it had generated", async () => {
    const node = await startNode({}, { time_scale: "1" });
    const router = await node.readyRouter();
    const call = router.start(generate({ maxOutputTokens: 5_000 }));
    await call.responded;
    router.cancel(call.number, 999);
    const end = await call.ended;
    expect(end.reason).toBe(Reason.CANCELLED);
    expect(end.usage?.completionTokens).toBe(call.tokens());
    expect(node.usage).toMatchObject([{ outcome: Outcome.CANCELLED }]);
  });

  test("ends a call at its deadline", async () => {
    const node = await startNode({}, { time_scale: "1" });
    const router = await node.readyRouter();
    const end = await router.start({ ...generate({ maxOutputTokens: 5_000 }), timeoutMs: 60n }).ended;
    expect(end.reason).toBe(Reason.DEADLINE_EXCEEDED);
  });

  test("cancels the calls of a router that goes away", async () => {
    const node = await startNode({}, { time_scale: "1" });
    const router = await node.readyRouter();
    const other = await node.readyRouter();
    const call = router.start(generate({ maxOutputTokens: 5_000 }));
    await call.responded;
    router.close();
    await other.frame(
      ({ frame }) =>
        frame.case === "step" && frame.value.loads.some((load) => load.running === 0) && node.usage.length === 1,
    );
    expect(node.usage).toMatchObject([{ outcome: Outcome.CANCELLED }]);
  });

  test("refuses by an end what it cannot run", async () => {
    const node = await startNode({ calls: 2 });
    const router = await node.readyRouter();
    const reasonOf = async (fields: Parameters<TestRouter["start"]>[0]) => (await router.start(fields).ended).reason;
    expect(await reasonOf({ ...generate(), replicaId: "gone" })).toBe(Reason.NO_READY_REPLICA);
    expect(await reasonOf({ ...generate(), request: new Uint8Array([255]) })).toBe(Reason.INVALID_REQUEST);
    expect(await reasonOf({ ...generate(), method: Method.UNSPECIFIED })).toBe(Reason.ROUTE_NOT_FOUND);
    expect(await reasonOf(generate({ choiceCount: 17 }))).toBe(Reason.INVALID_REQUEST);
    expect(await reasonOf(generate({ maxOutputTokens: 1_000_000 }))).toBe(Reason.CONTEXT_LENGTH_EXCEEDED);
    expect(await reasonOf(generate({ sampling: { logitBias: { 1: 1 } } }))).toBe(Reason.UNSUPPORTED_PARAMETER);
    expect(node.usage).toEqual([]);
  });

  test("refuses calls past the link's limit with OVERLOADED", async () => {
    const node = await startNode({ calls: 2 }, { time_scale: "1" });
    const router = await node.readyRouter();
    const calls = router.startAll([generate(), generate(), generate()]);
    expect(await calls[2]?.ended).toMatchObject({ reason: Reason.OVERLOADED, limit: "2 calls" });
    await Promise.all(calls.map((call) => call.ended));
  });

  test("ends by name the call whose answer nobody reads, and goes on", async () => {
    const node = await startNode({ callBytes: 4_096 });
    const router = await node.readyRouter();
    router.pause();
    const calls = router.startAll(
      Array.from({ length: 200 }, () => generate({ maxOutputTokens: 8_000, logprobs: { top: 20 } })),
    );
    await node.metrics.text();
    while (node.usage.length < 200) await new Promise((resolve) => setImmediate(resolve));
    router.resume();
    const ends = await Promise.all(calls.map((call) => call.ended));
    expect(new Set(ends.map((end) => end.reason))).toEqual(new Set([Reason.OVERLOADED]));
    expect((await router.start(generate()).ended).reason).toBe(Reason.UNSPECIFIED);
  });

  test("embeds and counts tokens", async () => {
    const node = await startNode();
    const router = await node.readyRouter();
    const inputs = ["one", "two words"].map((value) => ({ input: { case: "text" as const, value } }));
    const embed = router.start({
      replicaId: "r1",
      method: Method.EMBED,
      request: encode(EmbedRequestSchema, { model: "alias", inputs }),
    });
    const input = { case: "prompt" as const, value: "two words" };
    const count = router.start({
      replicaId: "r1",
      method: Method.COUNT_TOKENS,
      request: encode(CountTokensRequestSchema, { model: "alias", input }),
    });
    expect(await embed.ended).toMatchObject({ reason: Reason.UNSPECIFIED, usage: { promptTokens: 3 } });
    await count.ended;
    const embedded = fromBinary(EmbedResponseSchema, embed.responses[0] ?? new Uint8Array());
    expect({ model: embedded.model, count: embedded.embeddings.length }).toEqual({ model: "m", count: 2 });
    expect(fromBinary(CountTokensResponseSchema, count.responses[0] ?? new Uint8Array()).promptTokens).toBe(2);
    expect(node.usage).toHaveLength(1);
  });

  test("sends loads when they change and a heartbeat when nothing does", async () => {
    const node = await startNode({ heartbeatMs: 50 }, { time_scale: "1" });
    const router = await node.readyRouter();
    const call = router.start(generate());
    await router.frame(({ frame }) => frame.case === "step" && frame.value.loads.some((load) => load.running === 1));
    await call.ended;
    const seen = router.frames.length;
    await router.frame(
      (frame) =>
        router.frames.indexOf(frame) > seen &&
        frame.frame.case === "step" &&
        frame.frame.value.deltas.length === 0 &&
        frame.frame.value.loads.length === 0,
    );
  });

  test("sends with every step the load of the replica that made it", async () => {
    // Loads are read once an hour but for those that come with steps.
    const node = await startNode({ loadIntervalMs: 3_600_000 }, { time_scale: "1", step_base_us: "2000" });
    const router = await node.readyRouter();
    await router.start(generate({ maxOutputTokens: 10 })).ended;
    const steps = router.frames.flatMap(({ frame }) => (frame.case === "step" ? [frame.value] : []));
    // The first is what the link began with; one that is as it was is not said again.
    const told = steps.filter(({ loads }) => loads.length > 0).slice(1);
    expect(told.filter(({ deltas }) => deltas.length === 0)).toEqual([]);
    expect(told.at(0)?.loads).toMatchObject([{ replicaId: "r1", running: 1 }]);
    expect(told.at(-1)).toMatchObject({ deltas: [{ end: {} }], loads: [{ replicaId: "r1", running: 0 }] });
  });

  test("tells what caches hold: a snapshot, changes by number, and a snapshot again when asked", async () => {
    const held = new Set([1, 2]);
    const prefixes = { blockBytes: 256, replicaIds: () => ["r1"], held: () => Uint32Array.from(held) };
    const node = await startNode({ prefixes });
    const router = node.router();
    expect((await router.hello()).frame).toMatchObject({ case: "hello", value: { prefixBlockBytes: 256 } });
    const digest = async (sequence: bigint) => {
      const has = ({ frame }: (typeof router.frames)[number]) =>
        frame.case === "step" ? frame.value.prefixes.find((one) => one.sequence === sequence) : undefined;
      return has(await router.frame((frame) => has(frame) !== undefined));
    };
    expect(await digest(1n)).toMatchObject({ replicaId: "r1", snapshot: true, added: [1, 2] });
    held.add(3);
    held.delete(1);
    node.link.prefixesChanged("r1", { added: [3], removed: [1] });
    expect(await digest(2n)).toMatchObject({ snapshot: false, added: [3], removed: [1] });
    router.send({ case: "calls", value: { resendPrefixes: ["r1"] } });
    expect(await digest(3n)).toMatchObject({ snapshot: true, added: [2, 3], removed: [] });
  });

  test("ends a link whose router says what it must not, with the fault", async () => {
    const node = await startNode();
    const twice = node.router();
    await twice.hello();
    void twice.hello();
    const reusing = await node.readyRouter();
    const call = { ...generate({ maxOutputTokens: 8_000 }), number: 7 };
    reusing.send({ case: "calls", value: { starts: [call] } });
    reusing.send({ case: "calls", value: { starts: [call] } });
    expect(await twice.ended).toMatchObject({
      code: grpc.status.INVALID_ARGUMENT,
      details: expect.stringContaining("only CallBatch"),
    });
    expect(await reusing.ended).toMatchObject({
      code: grpc.status.INVALID_ARGUMENT,
      details: expect.stringContaining("number 7 is in use"),
    });
    expect((await (await node.readyRouter()).start(generate()).ended).reason).toBe(Reason.UNSPECIFIED);
  });

  test("refuses a router past the limit, and takes it when another has gone", async () => {
    const node = await startNode({ links: 1 });
    const first = await node.readyRouter();
    const second = node.router();
    void second.hello();
    expect((await second.ended).code).toBe(grpc.status.RESOURCE_EXHAUSTED);
    first.close();
    while (node.link.sessionCount > 0) await new Promise((resolve) => setImmediate(resolve));
    expect((await node.router().hello()).frame.case).toBe("hello");
  });

  test("fails the calls of an engine that crashes, and is ready again", async () => {
    const node = await startNode({}, { crash_after_tokens: "30" });
    const router = await node.readyRouter();
    const end = await router.start(generate({ maxOutputTokens: 1_000 })).ended;
    expect(end.reason).toBe(Reason.ENGINE_FAILED);
    expect((await router.start(generate()).ended).reason).toBe(Reason.NO_READY_REPLICA);
    const fits = (seen: number) => (frame: (typeof router.frames)[number]) =>
      router.frames.indexOf(frame) >= seen &&
      frame.frame.case === "step" &&
      frame.frame.value.replicas.some((replica) => replica.state === ReplicaState.READY);
    await router.frame(fits(router.frames.length));
    expect((await router.start(generate()).ended).reason).toBe(Reason.UNSPECIFIED);
    expect(node.replicas.statuses()).toMatchObject([{ engineRestarts: 1 }]);
  });

  test("drains: notice, no new calls, the running one finishes, the stream ends well", async () => {
    const node = await startNode({}, { time_scale: "1" });
    const router = await node.readyRouter();
    const call = router.start(generate({ maxOutputTokens: 40 }));
    await call.responded;
    const drained = node.link.drain(10_000);
    await router.frame(({ frame }) => frame.case === "drain");
    expect((await router.start(generate()).ended).reason).toBe(Reason.DRAINING);
    expect((await call.ended).reason).toBe(Reason.UNSPECIFIED);
    expect((await router.ended).code).toBe(grpc.status.OK);
    await drained;
  });

  test("ends calls as DRAINING that outlast the drain", async () => {
    const node = await startNode({}, { time_scale: "1" });
    const router = await node.readyRouter();
    const call = router.start(generate({ maxOutputTokens: 8_000 }));
    await call.responded;
    // Half of it is for the ends to be sent, which a machine under load takes its time for.
    await node.link.drain(1_000);
    expect((await call.ended).reason).toBe(Reason.DRAINING);
    expect((await router.ended).code).toBe(grpc.status.OK);
  });
});

/** A way to a port that can be cut without a word, as when the process at one end is killed. */
async function breakableWay(port: number) {
  const sockets: Socket[] = [];
  const server = createServer((near) => {
    const far = connect(port, "127.0.0.1");
    sockets.push(near, far);
    for (const socket of [near, far]) socket.on("error", () => {});
    near.pipe(far).pipe(near);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  closers.push(() => void server.close());
  const { port: way } = server.address() as AddressInfo;
  return {
    port: way,
    cut: () => sockets.forEach((socket) => socket.destroy()),
    /** As a host that vanishes: both ends stay open, and nothing arrives. */
    vanish: () => sockets.forEach((socket) => socket.unpipe().pause()),
  };
}

describe("calls whose link broke", () => {
  /** Of a story that takes 0.4 s. */
  const asked = { ...generate({ maxOutputTokens: 50 }), callId: "c", keyId: "k", attempt: 1 };
  const requestSha256 = createHash("sha256").update(asked.request).digest();
  const holds = (released: boolean) => (message: ConnectResponse) =>
    (message.frame.case === "step" || message.frame.case === "hello") &&
    message.frame.value.heldCalls.some((one) => one.callId === "c" && one.released === released);

  async function broken(overrides?: Parameters<typeof startNode>[0]) {
    const node = await startNode(overrides, { time_scale: "1" });
    const way = await breakableWay(node.port);
    const [first, second] = await Promise.all([node.readyRouter("one", way.port), node.readyRouter("two")]);
    const call = first.start(asked);
    await call.responded;
    way.cut();
    return { node, second };
  }

  test("go on, are announced, and are told whole to the router that takes them up", async () => {
    const { node, second } = await broken();
    await second.frame(holds(false));
    const late = await node.readyRouter("three");
    await late.frame(holds(false));
    const resumed = second.takeUp({ callId: "c", keyId: "k", requestSha256 });
    expect(await resumed.ended).toMatchObject({ reason: Reason.UNSPECIFIED, usage: { completionTokens: 50 } });
    const whole = second.start({ ...asked, callId: "c" });
    await whole.ended;
    await late.frame(holds(true));
    expect(resumed.generated()).toEqual(whole.generated());
    expect(resumed.tokens()).toBe(50);
    expect(node.usage.slice(0, 2)).toMatchObject([
      { callId: "c", outcome: Outcome.CANCELLED },
      { callId: "c", outcome: Outcome.COMPLETED, usage: { completionTokens: 50 } },
    ]);
    expect(Number(node.usage[0]?.usage?.completionTokens)).toBeLessThan(50);
    const again = second.takeUp({ callId: "c", keyId: "k", requestSha256 });
    expect(await again.ended).toMatchObject({ reason: Reason.NOT_FOUND });
  });

  test("can be taken up just after their end, which may not have come", async () => {
    const node = await startNode();
    const way = await breakableWay(node.port);
    const [first, second] = await Promise.all([node.readyRouter("one", way.port), node.readyRouter("two")]);
    await first.start(asked).ended;
    way.cut();
    await second.frame(holds(false));
    const resumed = second.takeUp({ callId: "c", keyId: "k", requestSha256 });
    expect(await resumed.ended).toMatchObject({ reason: Reason.UNSPECIFIED, usage: { completionTokens: 50 } });
    expect(resumed.generated().at(-1)?.event.case).toBe("finished");
    expect(node.usage).toHaveLength(1);
  });

  test("end with the process that is back, and with the time that they have; nobody pays beyond the break", async () => {
    const { node, second } = await broken();
    await second.frame(holds(false));
    await node.readyRouter("one");
    await second.frame(holds(true));
    const short = await broken({ held: { windowMs: 20 } });
    await short.second.frame(holds(true));
    for (const { usage } of [node, short.node]) expect(usage).toMatchObject([{ outcome: Outcome.CANCELLED }]);
  });

  test("are held as well when their router is there no more and says nothing", async () => {
    const node = await startNode({ heartbeatMs: 50 }, { time_scale: "1" });
    const way = await breakableWay(node.port);
    const [first, second] = await Promise.all([node.readyRouter("one", way.port), node.readyRouter("two")]);
    const long = generate({ maxOutputTokens: 500 });
    const call = first.start({ ...long, callId: "c", keyId: "k" });
    await call.responded;
    way.vanish();
    await second.frame(holds(false));
    const resumed = second.takeUp({
      callId: "c",
      keyId: "k",
      requestSha256: createHash("sha256").update(long.request).digest(),
    });
    await resumed.responded;
    expect(resumed.text().startsWith(call.text())).toBe(true);
  });

  test("are cancelled at once when their router ended the link itself", async () => {
    const node = await startNode({}, { time_scale: "1" });
    const [first, second] = await Promise.all([node.readyRouter("one"), node.readyRouter("two")]);
    const call = first.start(asked);
    await call.responded;
    first.close();
    await expect.poll(() => node.usage).toMatchObject([{ outcome: Outcome.CANCELLED }]);
    expect(second.frames.filter(holds(false))).toEqual([]);
  });
});

describe("calls whose client is back before their router is missed", () => {
  const asked = { ...generate({ maxOutputTokens: 50 }), callId: "c", keyId: "k", attempt: 2 };
  const requestSha256 = createHash("sha256").update(asked.request).digest();
  const own = { callId: "c", keyId: "k" };

  async function running(instanceId = "one") {
    const node = await startNode({}, { time_scale: "1" });
    const [first, second] = await Promise.all([node.readyRouter(instanceId), node.readyRouter("two")]);
    const call = first.start(asked);
    await call.responded;
    return { node, first, second, call };
  }

  const found = async (router: TestRouter) => {
    const { frame } = await router.frame(({ frame }) => frame.case === "step" && frame.value.heldCalls.length > 0);
    return frame.case === "step" ? frame.value.heldCalls : [];
  };

  test("are found by the key that began them, and by no other", async () => {
    const { first, second } = await running();
    second.find({ ...own, keyId: "other" }, { ...own, callId: "other" }, own);
    expect(await found(second)).toMatchObject([
      { ...own, replicaId: "r1", attempt: 2, attached: true, released: false },
    ]);
    expect(first.frames.filter(({ frame }) => frame.case === "step" && frame.value.heldCalls.length > 0)).toEqual([]);
  });

  test("go on where they are taken up, from their beginning, and end where they were; each is used once", async () => {
    const { node, second, call } = await running();
    const resumed = second.takeUp({ ...own, requestSha256 });
    expect(await call.ended).toMatchObject({ reason: Reason.RESUMED_ELSEWHERE, usage: { completionTokens: 0 } });
    expect(await resumed.ended).toMatchObject({ reason: Reason.UNSPECIFIED, usage: { completionTokens: 50 } });
    expect(resumed.tokens()).toBe(50);
    expect(resumed.text().startsWith(call.text())).toBe(true);
    expect(node.usage).toMatchObject([{ callId: "c", outcome: Outcome.COMPLETED, usage: { completionTokens: 50 } }]);
    expect(await node.metrics.text()).toMatch(/link_calls_taken_total\{[^}]*\} 1\n/);
  });

  test("go on for the same router too, under another number", async () => {
    const { first, call } = await running();
    const resumed = first.takeUp({ ...own, requestSha256 });
    expect(await call.ended).toMatchObject({ reason: Reason.RESUMED_ELSEWHERE });
    expect(await resumed.ended).toMatchObject({ reason: Reason.UNSPECIFIED, usage: { completionTokens: 50 } });
  });

  test("stay where they are for whoever asks with another key or request, or while their router is too old", async () => {
    const { second, call } = await running();
    const stranger = second.takeUp({ ...own, keyId: "other", requestSha256 });
    const other = second.takeUp({ ...own, requestSha256: new Uint8Array(32) });
    expect(await stranger.ended).toMatchObject({ reason: Reason.NOT_FOUND });
    expect(await other.ended).toMatchObject({ reason: Reason.INVALID_REQUEST });
    expect(await call.ended).toMatchObject({ reason: Reason.UNSPECIFIED, usage: { completionTokens: 50 } });
    const old = await running("");
    const refused = old.second.takeUp({ ...own, requestSha256 });
    expect(await refused.ended).toMatchObject({ reason: Reason.NOT_FOUND });
  });
});

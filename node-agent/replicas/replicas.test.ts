import { create } from "@bufbuild/protobuf";
import { describe, expect, test } from "vitest";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { GenerateRequestSchema } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { DesiredReplicaSchema } from "#gen/helixmesh/node/v1/node_pb.ts";
import { EngineCapabilitiesSchema, ReplicaState as WireState } from "#gen/helixmesh/type/v1/type_pb.ts";
import { ManualClock } from "#kernel/clock.ts";
import { silentLogger } from "#kernel/log.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import type { EngineOptions, StepEvent } from "../engines/engine.ts";
import { reconcile } from "./reconcile.ts";
import { ReplicaSet } from "./replica-set.ts";
import { type ReplicaEvent, type ReplicaState, transition, wireState } from "./state.ts";

const capabilities = create(EngineCapabilitiesSchema, { generate: true, contextTokens: 8 });
const boom = new MeshError(Reason.ENGINE_FAILED, "boom");
const desired = (replicaId: string) => create(DesiredReplicaSchema, { replicaId, model: "m" });

describe("a replica's life", () => {
  const after = (...events: ReplicaEvent[]): ReplicaState =>
    events.reduce(transition, { kind: "absent" } as ReplicaState);
  const attempt = { kind: "attempt" } as const;
  const loading = { kind: "progress", phase: "loading", progress: 0.5 } as const;

  test("goes from absent by fetching, loading and warming to ready", () => {
    expect(after(attempt)).toEqual({ kind: "fetching", progress: 0 });
    expect(after(attempt, loading)).toEqual({ kind: "loading", progress: 0.5 });
    expect(after(attempt, loading, { kind: "progress", phase: "warming", progress: 3 })).toEqual({
      kind: "warming",
      progress: 1,
    });
    expect(after(attempt, loading, { kind: "loaded", capabilities })).toEqual({ kind: "ready", capabilities });
  });

  test("never goes back by a late report", () => {
    const late = { kind: "progress", phase: "fetching", progress: 0.9 } as const;
    expect(after(attempt, loading, late)).toEqual({ kind: "loading", progress: 0.5 });
    expect(after(attempt, { kind: "failed", error: boom }, late)).toEqual({ kind: "failed", error: boom });
  });

  test("fails from anywhere and is attempted again", () => {
    expect(after(attempt, loading, { kind: "failed", error: boom }, attempt)).toEqual({
      kind: "fetching",
      progress: 0,
    });
  });

  test("stays draining whatever comes", () => {
    const drain = { kind: "drain", why: "moved" } as const;
    const events: ReplicaEvent[] = [
      attempt,
      loading,
      { kind: "loaded", capabilities },
      { kind: "failed", error: boom },
    ];
    for (const event of events) expect(after(attempt, drain, event)).toMatchObject({ kind: "draining", why: "moved" });
  });

  test("is told with the reason only where there is one", () => {
    expect(wireState({ kind: "failed", error: boom })).toMatchObject({ state: WireState.FAILED, message: "boom" });
    expect(wireState({ kind: "ready", capabilities })).toMatchObject({
      state: WireState.READY,
      message: "",
      capabilities,
    });
  });
});

describe("reconcile", () => {
  test("adds what is missing and drains what is not wanted, drains first", () => {
    const actions = reconcile(
      [desired("a"), desired("b")],
      [
        { replicaId: "b", draining: false },
        { replicaId: "c", draining: false },
      ],
    );
    expect(
      actions.map((action) => [action.kind, action.kind === "add" ? action.desired.replicaId : action.replicaId]),
    ).toEqual([
      ["drain", "c"],
      ["add", "a"],
    ]);
  });

  test("does nothing about what drains already, wanted again or not", () => {
    const actual = [
      { replicaId: "a", draining: true },
      { replicaId: "b", draining: true },
    ];
    expect(reconcile([desired("a")], actual)).toEqual([]);
  });

  test("adds a replica named twice once", () => {
    expect(reconcile([desired("a"), desired("a")], [])).toHaveLength(1);
  });
});

/** An engine whose load and failures the test decides. */
function scriptedEngines(clock: ManualClock) {
  const prefixNews: unknown[] = [];
  const made: (EngineOptions & { calls: number[]; closed: boolean })[] = [];
  const set = new ReplicaSet({
    fetchModel: async () => "",
    engineFor: async () => (options) => {
      const script = { ...options, calls: [] as number[], closed: false };
      made.push(script);
      return {
        load: async () => capabilities,
        generate: (call) => void script.calls.push(call.id),
        cancel: () => {},
        embed: () => Promise.reject(boom),
        countTokens: () => Promise.reject(boom),
        readLoad: () => ({
          running: script.calls.length,
          queued: 0,
          kvUsedTokens: 0n,
          kvTotalTokens: 0n,
          stepTimeUs: 0,
          prefillTokensPerS: 0,
          prefillBacklogTokens: 0n,
        }),
        close: async () => void (script.closed = true),
      };
    },
    drainTimeoutMs: 1_000,
    onChange: () => {},
    prefixes: { blockBytes: 256, maxBlocks: 100, onChange: (...news) => void prefixNews.push(news) },
    clock,
    random: { next: () => 0.5 },
    logger: silentLogger,
  });
  return { made, set, prefixNews };
}
const settle = () => new Promise((resolve) => setImmediate(resolve));
const stateOf = (set: ReplicaSet) => set.statuses().map((status) => status.state);

describe("ReplicaSet", () => {
  test("restarts a failed engine after a growing pause and counts it", async () => {
    const clock = new ManualClock();
    const { made, set } = scriptedEngines(clock);
    set.setDesired([desired("a")]);
    await settle();
    expect(stateOf(set)).toEqual([WireState.READY]);
    for (const [index, pauseMs] of [375, 750, 1_500].entries()) {
      made.at(-1)?.onFailed(boom);
      await settle();
      expect(set.statuses()).toMatchObject([{ state: WireState.FAILED, message: "boom" }]);
      expect(() => set.target("a")).toThrow(/failed, not ready/);
      clock.advance(pauseMs - 1);
      await settle();
      expect(made).toHaveLength(index + 1);
      clock.advance(1);
      await settle();
      expect(set.statuses()).toMatchObject([{ state: WireState.READY, engineRestarts: index + 1 }]);
    }
    await set.close(0);
    expect(made.every((engine) => engine.closed)).toBe(true);
  });

  test("lets a removed replica finish its calls and takes no more", async () => {
    const clock = new ManualClock();
    const { made, set } = scriptedEngines(clock);
    set.setDesired([desired("a")]);
    await settle();
    const events: StepEvent["kind"][] = [];
    set
      .target("a")
      .generate(
        { request: create(GenerateRequestSchema), choiceIndex: 0, generated: [] },
        (event) => void events.push(event.kind),
      );
    set.setDesired([]);
    await settle();
    expect(stateOf(set)).toEqual([WireState.DRAINING]);
    expect(() => set.target("a")).toThrow(/being removed/);
    made[0]?.onStep([{ kind: "finished", id: made[0].calls[0] ?? 0, reason: 1, completionTokens: 0 }]);
    await settle();
    expect(events).toEqual(["finished"]);
    expect(set.statuses()).toEqual([]);
  });

  test("ends the calls of a removed replica that outlast the drain, though its engine forgot them", async () => {
    const clock = new ManualClock();
    const { set } = scriptedEngines(clock);
    set.setDesired([desired("a")]);
    await settle();
    const events: StepEvent["kind"][] = [];
    set
      .target("a")
      .generate(
        { request: create(GenerateRequestSchema), choiceIndex: 0, generated: [] },
        (event) => void events.push(event.kind),
      );
    set.setDesired([]);
    clock.advance(1_000);
    await settle();
    expect(events).toEqual(["failed"]);
    expect(set.statuses()).toEqual([]);
  });

  test("makes a replica anew that was wanted again while it drained", async () => {
    const clock = new ManualClock();
    const { made, set } = scriptedEngines(clock);
    set.setDesired([desired("a")]);
    await settle();
    set.target("a").generate({ request: create(GenerateRequestSchema), choiceIndex: 0, generated: [] }, () => {});
    set.setDesired([]);
    set.setDesired([desired("a")]);
    clock.advance(1_000);
    await settle();
    expect(made).toHaveLength(2);
    expect(stateOf(set)).toEqual([WireState.READY]);
    await set.close(0);
  });

  test("knows which prefixes an engine holds, and forgets them with it", async () => {
    const { made, set, prefixNews } = scriptedEngines(new ManualClock());
    set.setDesired([desired("a")]);
    await settle();
    made[0]?.prefixes?.onChange({ added: [1, 2, 3], removed: [], cut: 0 });
    made[0]?.prefixes?.onChange({ added: [4], removed: [1], cut: 0 });
    expect(set.heldPrefixes("a")).toEqual(Uint32Array.of(2, 3, 4));
    expect(set.heldPrefixes("b")).toBeUndefined();
    made[0]?.onFailed(boom);
    await settle();
    expect(set.heldPrefixes("a")).toEqual(new Uint32Array(0));
    expect(prefixNews).toEqual([
      ["a", { added: [1, 2, 3], removed: [], cut: 0 }],
      ["a", { added: [4], removed: [1], cut: 0 }],
      ["a", "snapshot"],
    ]);
    await set.close(0);
  });

  test("removes a replica that waits for its next attempt at once", async () => {
    const { made, set } = scriptedEngines(new ManualClock());
    set.setDesired([desired("a")]);
    await settle();
    made[0]?.onFailed(boom);
    await settle();
    set.setDesired([]);
    await settle();
    expect(set.statuses()).toEqual([]);
  });
});

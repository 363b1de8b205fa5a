import { create } from "@bufbuild/protobuf";
import { describe, expect, test } from "vitest";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { HeldCallSchema } from "#gen/helixmesh/link/v1/link_pb.ts";
import { Outcome } from "#gen/helixmesh/type/v1/type_pb.ts";
import { begin, delta, end, failed, send, started } from "./test-call.ts";

const held = (replicaId = "r1", attempt = 1, attached = false) =>
  create(HeldCallSchema, {
    attached,
    callId: "call-1",
    keyId: "k",
    replicaId,
    model: "pocket",
    deployment: "d",
    startedAtMs: 3n,
    attempt,
  });
const noUsage = { model: "", outcome: Outcome.FAILED };

describe("a call that is resumed", () => {
  test("waits for word of its node, gets all since its beginning, and is accounted for as of its beginning", async () => {
    const { client, links, resumables, settlements, metrics, permits } = begin({ ready: ["r1"], resumes: true });
    expect(links.resumes).toEqual([]);
    resumables.told("n-r1", held("r1", 2));
    const [resumed] = links.resumes;
    expect(resumed?.resume).toMatchObject({ callId: "call-1", keyId: "k", replicaId: "r1" });
    if (resumed) send(resumed, [started, delta, delta], 2);
    if (resumed) send(resumed, [delta], 1);
    resumed?.call.onEnd(end(Reason.UNSPECIFIED, 3));
    expect(client.got).toEqual([started, delta, delta, delta]);
    expect(client.end).toEqual({ kind: "finished" });
    expect(settlements).toMatchObject([
      {
        outcome: Outcome.COMPLETED,
        model: "pocket",
        deployment: "d",
        startedAtMs: 3,
        completionTokens: 3,
        attempts: 2,
      },
    ]);
    expect(links.starts).toEqual([]);
    expect(permits.released).toBe(1);
    expect(await metrics.text()).toMatch(/router_resumes_total\{[^}]*outcome="resumed"[^}]*\} 1\n/);
  });

  test("is told to call anew when no node holds it, and takes nothing from the call's usage", async () => {
    const { client, clock, settlements, metrics } = begin({ ready: ["r1"], resumes: true });
    clock.advance(1_999);
    expect(client.end).toBeUndefined();
    clock.advance(1);
    expect(client.end).toEqual(failed(Reason.NOT_FOUND));
    expect(client.end).toMatchObject({ error: { field: "x-helixmesh-resume" } });
    expect(settlements).toMatchObject([noUsage]);
    expect(await metrics.text()).toMatch(/router_resumes_total\{[^}]*outcome="not_found"[^}]*\} 1\n/);
    expect(clock.pendingTimers).toBe(0);
  });

  test.each([
    { reason: Reason.NOT_FOUND, told: Reason.NOT_FOUND },
    { reason: Reason.INVALID_REQUEST, told: Reason.INVALID_REQUEST },
    { reason: Reason.NODE_LOST, told: Reason.NODE_LOST },
  ])("never begins anew when its node says $reason", ({ reason, told }) => {
    const { client, links, resumables, settlements } = begin({ ready: ["r1", "r2"], resumes: true });
    resumables.told("n-r1", held());
    links.resumes[0]?.call.onEnd(end(reason));
    expect(client.end).toEqual(failed(told));
    expect(links.starts).toEqual([]);
    expect(settlements).toMatchObject([noUsage]);
  });

  test("waits on while its node cannot be asked", () => {
    const { links, resumables } = begin({ ready: ["r1"], resumes: true });
    links.reachable = false;
    resumables.told("n-r1", held());
    links.reachable = true;
    resumables.told("n-r1", held());
    expect(links.resumes).toHaveLength(1);
  });

  test("moves like any other when its node dies too", () => {
    const { client, links, resumables, ask, settlements } = begin({ ready: ["r1", "r2"], resumes: true });
    resumables.told("n-r1", held());
    const [resumed] = links.resumes;
    if (resumed) send(resumed, [started, delta], 1);
    links.change("r2");
    resumed?.call.onEnd(end(Reason.NODE_LOST));
    expect(ask(0).start).toMatchObject({ replicaId: "r2", relayed: [started, delta], attempt: 2, startedAtMs: 3 });
    send(ask(0), [delta], 1);
    ask(0).call.onEnd(end(Reason.UNSPECIFIED, 2));
    expect(client.got).toEqual([started, delta, delta]);
    expect(settlements).toMatchObject([{ outcome: Outcome.COMPLETED, attempts: 2, moves: 1, startedAtMs: 3 }]);
  });

  test("stops waiting when its client goes", () => {
    const { call, clock, links, resumables } = begin({ ready: ["r1"], resumes: true });
    resumables.told("n-r1", held("r1", 1, true));
    call.abort();
    resumables.told("n-r1", held());
    expect(links.resumes).toEqual([]);
    expect(clock.pendingTimers).toBe(0);
  });

  test("is asked for at all nodes, and taken from the link where it is, at the node that has its latest attempt", () => {
    const { client, clock, links, resumables, settlements } = begin({ ready: ["r1"], resumes: true });
    expect(links.finds).toEqual([{ keyId: "k", callId: "call-1" }]);
    resumables.told("n-r1", held("r1", 1, true));
    clock.advance(50);
    resumables.told("n-r2", held("r2", 3, true));
    resumables.told("n-r3", held("r3", 2, true));
    expect(links.resumes).toEqual([]);
    clock.advance(50);
    expect(links.resumes).toMatchObject([{ resume: { replicaId: "r2" } }]);
    const [resumed] = links.resumes;
    if (resumed) send(resumed, [started, delta], 1);
    resumed?.call.onEnd(end(Reason.UNSPECIFIED, 1));
    expect(client.end).toEqual({ kind: "finished" });
    expect(settlements).toMatchObject([{ outcome: Outcome.COMPLETED, attempts: 3, startedAtMs: 3 }]);
    expect(clock.pendingTimers).toBe(0);
  });

  test("is not asked for where a node holds it, and taken at once where one begins to hold it", () => {
    const { clock, links, resumables } = begin({ ready: ["r1"], resumes: true });
    resumables.told("n-r1", held("r1", 1, true));
    resumables.told("n-r2", held("r2", 2));
    expect(links.resumes).toMatchObject([{ resume: { replicaId: "r2" } }]);
    clock.advance(1_000);
    expect(links.resumes).toHaveLength(1);
  });

  test("waits on when the node that has it cannot be asked any more", () => {
    const { clock, links, resumables } = begin({ ready: ["r1"], resumes: true });
    links.reachable = false;
    resumables.told("n-r1", held("r1", 1, true));
    clock.advance(100);
    links.reachable = true;
    resumables.told("n-r2", held("r2", 1));
    expect(links.resumes).toMatchObject([{ resume: { replicaId: "r2" } }]);
  });

  test("waits for word alone while as many nodes were asked as may be", () => {
    const { links, resumables } = begin({ ready: ["r1"], resumes: true, asksPerSecond: 0 });
    expect(links.finds).toEqual([]);
    resumables.told("n-r1", held());
    expect(links.resumes).toHaveLength(1);
  });
});

describe("a call whose client resumed it elsewhere", () => {
  test("ends with that, is accounted for by whoever has it, and counts against no replica", async () => {
    const { client, links, ask, settlements, permits, metrics } = begin({ ready: ["r1", "r2"] });
    send(ask(0), [started, delta], 1);
    ask(0).call.onEnd(end(Reason.RESUMED_ELSEWHERE));
    expect(client.end).toEqual(failed(Reason.RESUMED_ELSEWHERE));
    expect(settlements).toMatchObject([{ ...noUsage, promptTokens: 0, completionTokens: 0 }]);
    expect(links.starts).toHaveLength(1);
    expect(permits.released).toBe(1);
    expect(await metrics.text()).not.toMatch(/router_moves_refused_total\{/);
  });

  test("is accounted for there too when this router had just cancelled it", () => {
    const { call, ask, settlements } = begin({ ready: ["r1"] });
    send(ask(0), [started, delta], 1);
    call.abort();
    ask(0).call.onEnd(end(Reason.RESUMED_ELSEWHERE));
    expect(settlements).toMatchObject([{ ...noUsage, completionTokens: 0 }]);
  });
});

test("a call says whose it is, when it began and which attempt it is", () => {
  const { ask } = begin({ ready: ["r1", "r2"] });
  expect(ask(0).start).toMatchObject({ keyId: "k", attempt: 1 });
  ask(0).call.onEnd(end(Reason.NODE_LOST));
  expect(ask(1).start).toMatchObject({ keyId: "k", attempt: 2, startedAtMs: ask(0).start.startedAtMs });
});

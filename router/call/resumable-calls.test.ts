import { create } from "@bufbuild/protobuf";
import { describe, expect, test } from "vitest";
import { HeldCallSchema } from "#gen/helixmesh/link/v1/link_pb.ts";
import { ManualClock } from "#kernel/clock.ts";
import { Metrics } from "#kernel/metrics.ts";
import { ResumableCalls } from "./resumable-calls.ts";

const a = { keyId: "k", callId: "a" };

function open(maxCalls = 10, asksPerSecond = 10) {
  const metrics = new Metrics("test");
  const clock = new ManualClock();
  const calls = new ResumableCalls({ maxCalls, asksPerSecond, clock, metrics });
  const told = (
    nodeId: string,
    callId: string,
    fields: { attempt?: number; released?: boolean; keyId?: string; attached?: boolean } = {},
  ) => calls.told(nodeId, create(HeldCallSchema, { callId, keyId: "k", attempt: 1, startedAtMs: 5n, ...fields }));
  return { calls, told, metrics, clock };
}

describe("the calls that may be resumed", () => {
  test("are found by key and id until their node releases them or its link is down", () => {
    const { calls, told } = open();
    told("n1", "a");
    told("n1", "b");
    told("n2", "c");
    expect(calls.find(a)).toMatchObject({ nodeId: "n1", startedAtMs: 5 });
    expect(calls.find({ ...a, keyId: "other" })).toBeUndefined();
    told("n1", "a", { released: true });
    expect(calls.find(a)).toBeUndefined();
    calls.forget("n1");
    expect(calls.find({ ...a, callId: "b" })).toBeUndefined();
    expect(calls.find({ ...a, callId: "c" })).toMatchObject({ nodeId: "n2" });
  });

  test("are where their latest attempt is, when two nodes hold one", () => {
    const { calls, told } = open();
    told("n1", "a", { attempt: 2 });
    told("n2", "a");
    expect(calls.find(a)).toMatchObject({ nodeId: "n1" });
    told("n1", "a", { released: true });
    expect(calls.find(a)).toMatchObject({ nodeId: "n2" });
  });

  test("are told to whoever waits for one, and to nobody else", () => {
    const { calls, told } = open();
    let heard = 0;
    const stop = calls.onFound(a, () => void (heard += 1));
    told("n1", "b");
    told("n1", "a", { keyId: "other" });
    told("n1", "a", { released: true });
    expect(heard).toBe(0);
    told("n1", "a");
    stop();
    told("n2", "a");
    expect(heard).toBe(1);
  });

  test("are bounded, by count", async () => {
    const { calls, told, metrics } = open(2);
    for (const callId of ["a", "a", "b", "c"]) told("n1", callId);
    expect(["a", "b", "c"].map((callId) => calls.find({ ...a, callId }) !== undefined)).toEqual([true, true, false]);
    expect(await metrics.text()).toMatch(/router_resumable_calls\{[^}]*\} 2\n/);
    expect(await metrics.text()).toMatch(/router_resumable_calls_ignored_total\{[^}]*\} 1\n/);
    told("n1", "a", { released: true });
    told("n1", "c");
    expect(calls.find({ ...a, callId: "c" })).toBeDefined();
  });

  test("are told to whoever waits where another link has them, and forgotten at once", () => {
    const { calls, told } = open();
    const heard: unknown[] = [];
    calls.onFound(a, (attached) => void heard.push(attached?.nodeId));
    told("n1", "a", { attached: true });
    told("n2", "a", { keyId: "other", attached: true });
    expect(heard).toEqual(["n1"]);
    expect(calls.find(a)).toBeUndefined();
  });

  test("are asked for at so many nodes in a second, and at all of a larger mesh once", async () => {
    const { calls, metrics, clock } = open(10, 10);
    expect([calls.mayAsk(6), calls.mayAsk(6), calls.mayAsk(4)]).toEqual([true, false, true]);
    clock.advance(500);
    expect([calls.mayAsk(6), calls.mayAsk(5)]).toEqual([false, true]);
    clock.advance(1_000);
    expect([calls.mayAsk(1_000), calls.mayAsk(1)]).toEqual([true, false]);
    expect(await metrics.text()).toMatch(/router_resume_asks_refused_total\{[^}]*\} 3\n/);
  });

  test("are asked for nowhere with a limit of 0", () => {
    expect(open(10, 0).calls.mayAsk(0)).toBe(false);
  });
});

import { create } from "@bufbuild/protobuf";
import { describe, expect, test } from "vitest";
import { HeldCallSchema } from "#gen/helixmesh/link/v1/link_pb.ts";
import { Metrics } from "#kernel/metrics.ts";
import { ResumableCalls } from "./resumable-calls.ts";

function open(maxCalls = 10) {
  const metrics = new Metrics("test");
  const calls = new ResumableCalls({ maxCalls, metrics });
  const told = (
    nodeId: string,
    callId: string,
    fields: { attempt?: number; released?: boolean; keyId?: string } = {},
  ) => calls.told(nodeId, create(HeldCallSchema, { callId, keyId: "k", attempt: 1, startedAtMs: 5n, ...fields }));
  return { calls, told, metrics };
}

describe("the calls that may be resumed", () => {
  test("are found by key and id until their node releases them or its link is down", () => {
    const { calls, told } = open();
    told("n1", "a");
    told("n1", "b");
    told("n2", "c");
    expect(calls.find("k", "a")).toMatchObject({ nodeId: "n1", startedAtMs: 5 });
    expect(calls.find("other", "a")).toBeUndefined();
    told("n1", "a", { released: true });
    expect(calls.find("k", "a")).toBeUndefined();
    calls.forget("n1");
    expect(calls.find("k", "b")).toBeUndefined();
    expect(calls.find("k", "c")).toMatchObject({ nodeId: "n2" });
  });

  test("are where their latest attempt is, when two nodes hold one", () => {
    const { calls, told } = open();
    told("n1", "a", { attempt: 2 });
    told("n2", "a");
    expect(calls.find("k", "a")).toMatchObject({ nodeId: "n1" });
    told("n1", "a", { released: true });
    expect(calls.find("k", "a")).toMatchObject({ nodeId: "n2" });
  });

  test("are told to whoever waits for one, and to nobody else", () => {
    const { calls, told } = open();
    let heard = 0;
    const stop = calls.onHeld("k", "a", () => void (heard += 1));
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
    expect(["a", "b", "c"].map((callId) => calls.find("k", callId) !== undefined)).toEqual([true, true, false]);
    expect(await metrics.text()).toMatch(/router_resumable_calls\{[^}]*\} 2\n/);
    expect(await metrics.text()).toMatch(/router_resumable_calls_ignored_total\{[^}]*\} 1\n/);
    told("n1", "a", { released: true });
    told("n1", "c");
    expect(calls.find("k", "c")).toBeDefined();
  });
});

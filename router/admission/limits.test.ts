import { describe, expect, test } from "vitest";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { Metrics } from "#kernel/metrics.ts";
import { Limits } from "./limits.ts";

function limits(maxCalls: number, maxCallsPerKey: number) {
  const metrics = new Metrics("router");
  return { limits: new Limits({ maxCalls, maxCallsPerKey }, metrics), metrics };
}

describe("limits", () => {
  test("refuse the call above the router's limit as OVERLOADED and count it", async () => {
    const { limits: under, metrics } = limits(2, 2);
    under.enter("a");
    under.enter("b");
    expect(() => under.enter("c")).toThrow(
      expect.objectContaining({ reason: Reason.OVERLOADED, limit: "2 concurrent calls" }),
    );
    expect(await metrics.text()).toMatch(/router_admission_refusals_total\{[^}]*limit="max_calls"[^}]*\} 1/);
  });

  test("refuse the call above a key's limit as RATE_LIMITED and let other keys in", () => {
    const { limits: under } = limits(10, 1);
    under.enter("a");
    expect(() => under.enter("a")).toThrow(expect.objectContaining({ reason: Reason.RATE_LIMITED }));
    expect(() => under.enter("b")).not.toThrow();
  });

  test("give room back once, however often it is released", () => {
    const { limits: under } = limits(2, 2);
    const first = under.enter("a");
    under.enter("a");
    first.release();
    first.release();
    expect(under.inFlight).toBe(1);
    under.enter("a");
    expect(() => under.enter("a")).toThrow(expect.objectContaining({ reason: Reason.OVERLOADED }));
  });
});

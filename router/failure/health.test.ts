import { describe, expect, test } from "vitest";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { ManualClock } from "#kernel/clock.ts";
import { Metrics } from "#kernel/metrics.ts";
import { seededRandom } from "#kernel/random.ts";
import { Health } from "./health.ts";

function setUp() {
  const clock = new ManualClock(0);
  const metrics = new Metrics("router");
  const settings = { ejectPercent: 30, retryPercent: 20 };
  const health = new Health({ settings, clock, random: seededRandom(1), metrics });
  const attempt = (replicaId: string, reason: Reason, times = 1): void => {
    for (let time = 0; time < times; time++) {
      health.dispatched(replicaId, "d");
      health.failed(replicaId, reason);
    }
  };
  const answer = (replicaId: string, ttftMs: number, times = 1): void => {
    for (let time = 0; time < times; time++) {
      health.dispatched(replicaId, "d");
      health.succeeded(replicaId, ttftMs);
    }
  };
  return { clock, metrics, health, attempt, answer };
}

describe("health", () => {
  test("avoids a replica whose engine fails, until a probe succeeds", async () => {
    const { clock, metrics, health, attempt, answer } = setUp();
    attempt("bad", Reason.ENGINE_FAILED, 5);
    expect([...health.avoided()]).toEqual(["bad"]);
    expect(health.mayTake("good")).toBe(true);
    expect(await metrics.text()).toMatch(/router_breakers_opened_total\{deployment="d"[^}]*\} 1/);
    clock.advance(2_000);
    expect(health.mayTake("bad")).toBe(true);
    health.dispatched("bad", "d");
    expect(health.mayTake("bad")).toBe(false);
    health.succeeded("bad", 10);
    expect(health.mayTake("bad")).toBe(true);
    answer("bad", 10);
    expect(await metrics.text()).toMatch(/router_replicas_avoided\{[^}]*\} 0/);
  });

  test.each([
    ["client errors", Reason.INVALID_REQUEST],
    ["cancels", Reason.CANCELLED],
    ["deadlines", Reason.DEADLINE_EXCEEDED],
    ["full engines", Reason.OVERLOADED],
    ["drains", Reason.DRAINING],
    ["moved calls that it would have answered otherwise", Reason.CANNOT_CONTINUE],
    ["contexts that are too long", Reason.CONTEXT_LENGTH_EXCEEDED],
  ])("does not count %s against a replica", (_name, reason) => {
    const { health, attempt } = setUp();
    attempt("a", reason, 100);
    expect(health.mayTake("a")).toBe(true);
  });

  test("lets the next probe through when a probe was cancelled", () => {
    const { clock, health, attempt } = setUp();
    attempt("a", Reason.NODE_LOST, 5);
    clock.advance(2_000);
    attempt("a", Reason.CANCELLED);
    expect(health.mayTake("a")).toBe(true);
  });

  test("ejects a replica that is far slower than its peers, and takes it back", () => {
    const { clock, health, answer } = setUp();
    for (const replicaId of ["a", "b", "c"]) answer(replicaId, 20, 20);
    clock.advance(1_000);
    answer("slow", 3_000, 20);
    clock.advance(1_000);
    answer("a", 20);
    expect([...health.avoided()]).toEqual(["slow"]);
    clock.advance(30_000);
    expect(health.avoided().size).toBe(0);
  });

  test("allows retries up to a fifth of the calls and ten, and counts what it refused", async () => {
    const { health, metrics } = setUp();
    for (let call = 0; call < 100; call++) health.called("d");
    const allowed = Array.from({ length: 40 }, () => health.mayRetry("d")).filter(Boolean);
    expect(allowed).toHaveLength(30);
    expect(await metrics.text()).toMatch(/router_retries_refused_total\{deployment="d"[^}]*\} 10/);
  });

  test("allows hedges under their own budget, and none near saturation", () => {
    const { health } = setUp();
    for (let call = 0; call < 100; call++) health.called("d");
    expect(health.mayHedge("d", 5, true)).toBe(false);
    const allowed = Array.from({ length: 40 }, () => health.mayHedge("d", 5, false)).filter(Boolean);
    expect(allowed).toHaveLength(6);
  });

  test("forgets replicas that are gone", () => {
    const { health, attempt } = setUp();
    attempt("gone", Reason.NODE_LOST, 5);
    health.keep(new Set(), new Set());
    expect(health.avoided().size).toBe(0);
  });
});

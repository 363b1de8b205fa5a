import { describe, expect, test } from "vitest";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { ManualClock } from "#kernel/clock.ts";
import type { MeshError } from "#kernel/mesh-error.ts";
import { Metrics } from "#kernel/metrics.ts";
import type { QueueBounds } from "./queue.ts";
import type { Room } from "../routing/fill.ts";
import { type Ask, Queues } from "./queues.ts";

/** Queues in front of a replica whose places the test counts. */
function setUp(bounds: Partial<QueueBounds> = {}) {
  const clock = new ManualClock(0);
  const metrics = new Metrics("router");
  const replica = { state: "ready" as "ready" | "cold", places: 0 };
  const room = (): Room => (replica.state === "cold" ? "cold" : replica.places > 0 ? "free" : "busy");
  const defaults = { maxEntries: 100, maxBytes: 1_000_000, maxWaitMs: 30_000, promoteAfterMs: 3_000 };
  const replicas = () => ({ text: "1 loading (43 %)", stageLeftMs: 12_300 });
  const queues = new Queues({ bounds: { ...defaults, ...bounds }, room, replicas, clock, metrics });
  const turns: string[] = [];
  const refusals = new Map<string, MeshError>();
  const enter = (name: string, change: Partial<Ask> = {}) =>
    queues.enter(
      { deployment: "d", tenant: "t", priority: 5, deadlineMs: 1e9, bytes: 100, free: false, ...change },
      {
        onTurn() {
          replica.places -= 1;
          turns.push(name);
        },
        onRefused: (error) => void refusals.set(name, error),
      },
    );
  const free = (places: number): void => {
    replica.places += places;
    queues.freed("d");
  };
  return { clock, metrics, replica, queues, turns, refusals, enter, free };
}

describe("queues", () => {
  test("let a call through that finds room and nobody waiting", async () => {
    const { enter, turns, metrics, replica } = setUp();
    replica.places = 1;
    enter("a");
    expect(turns).toEqual(["a"]);
    expect(await metrics.text()).not.toMatch(/queue_ends_total\{/);
  });

  test("give turns as room comes, in the queue's order and never more than there is room", () => {
    const { enter, turns, free } = setUp();
    enter("low", { priority: 1 });
    enter("high", { priority: 9 });
    enter("middle");
    expect(turns).toEqual([]);
    free(2);
    expect(turns).toEqual(["high", "middle"]);
    free(1);
    expect(turns).toEqual(["high", "middle", "low"]);
  });

  test("let nobody pass those who wait", () => {
    const { enter, turns, replica } = setUp();
    enter("first");
    replica.places = 1;
    enter("second");
    expect(turns).toEqual(["first"]);
  });

  test("say where the replicas are to those whom they refuse while none is ready", () => {
    const { enter, replica, clock, refusals } = setUp({ maxEntries: 1 });
    replica.state = "cold";
    enter("short", { deadlineMs: clock.monotonicMs() + 1_000 });
    enter("second");
    expect(refusals.get("second")?.message).toMatch(
      /none of its replicas is ready \(1 loading \(43 %\)\), and the queue/,
    );
    clock.advance(1_000);
    expect(refusals.get("short")?.message).toMatch(/waited 1 s for a ready replica of "d" \(1 loading \(43 %\)\)/);
  });

  test("tell each about how many go before it", () => {
    const { enter, free } = setUp();
    const [, second] = [enter("first"), enter("second")];
    expect(second?.ahead()).toBe(1);
    free(1);
    expect(second?.ahead()).toBe(0);
    free(1);
    expect(second?.ahead()).toBeUndefined();
  });

  test("hold calls while no replica is ready, for longer than the longest wait, and in order", () => {
    const { enter, turns, replica, queues, clock, refusals } = setUp();
    replica.state = "cold";
    enter("background", { priority: 0 });
    enter("urgent", { priority: 9 });
    clock.advance(60_000);
    expect(refusals.size).toBe(0);
    replica.state = "ready";
    replica.places = 1;
    queues.changed();
    expect(turns).toEqual(["urgent"]);
    clock.advance(29_999);
    expect(refusals.size).toBe(0);
    clock.advance(1);
    expect(refusals.get("background")).toMatchObject({ reason: Reason.OVERLOADED, limit: "30000 ms" });
  });

  test("refuse above the bound with an advice that follows the measured rate", async () => {
    const { enter, refusals, clock, free, metrics } = setUp({ maxEntries: 4 });
    for (const name of ["a", "b", "c", "d"]) enter(name);
    enter("early");
    expect(refusals.get("early")).toMatchObject({ reason: Reason.OVERLOADED, retryAfterMs: 1_000 });
    for (const name of ["e", "f"]) {
      clock.advance(2_000);
      free(1);
      enter(name);
    }
    enter("late");
    expect(refusals.get("late")).toMatchObject({
      reason: Reason.OVERLOADED,
      limit: "4 waiting calls",
      retryAfterMs: expect.closeTo(10_000, -4),
    });
    expect(await metrics.text()).toMatch(/queue_ends_total\{deployment="d",outcome="full"[^}]*\} 2/);
  });

  test("advise to come again when a replica may be ready, while none is", () => {
    const { enter, refusals, replica } = setUp({ maxEntries: 1 });
    replica.state = "cold";
    enter("first");
    enter("second");
    expect(refusals.get("second")).toMatchObject({ reason: Reason.OVERLOADED, retryAfterMs: 13_000 });
  });

  test("tell the displaced that its place is gone", () => {
    const { enter, refusals, free, turns } = setUp({ maxEntries: 1 });
    enter("low", { priority: 0 });
    enter("high", { priority: 9 });
    expect(refusals.get("low")).toMatchObject({ reason: Reason.OVERLOADED, retryAfterMs: 1_000 });
    free(1);
    expect(turns).toEqual(["high"]);
  });

  test("give a call up when its deadline is out of reach, not later, and say what it waited", () => {
    const { enter, refusals, clock, queues } = setUp();
    queues.served("d", 250);
    enter("a", { deadlineMs: 2_000 });
    clock.advance(1_749);
    expect(refusals.size).toBe(0);
    clock.advance(1);
    expect(refusals.get("a")).toMatchObject({
      reason: Reason.DEADLINE_EXCEEDED,
      message: expect.stringContaining("waited 1.8 s"),
    });
    expect(clock.pendingTimers).toBe(0);
  });

  test("refuse a call at the door whose turn comes after its deadline, with when to come", () => {
    const { enter, refusals, clock, free } = setUp();
    for (let index = 0; index < 20; index++) enter(`${index}`);
    for (let turn = 0; turn < 10; turn++) {
      clock.advance(1_000);
      free(1);
    }
    enter("hasty", { deadlineMs: clock.monotonicMs() + 1_000 });
    const error = refusals.get("hasty");
    expect(error).toMatchObject({ reason: Reason.OVERLOADED });
    expect(error?.message).toMatch(/its turn|this call's turn/);
    expect(error?.retryAfterMs).toBeGreaterThanOrEqual(9_000);
  });

  test("forget who leaves, and keep no timer for an empty queue", async () => {
    const { enter, turns, free, clock, metrics } = setUp();
    const ticket = enter("gone");
    enter("stays");
    ticket?.leave();
    ticket?.leave();
    free(1);
    ticket?.leave();
    expect(turns).toEqual(["stays"]);
    expect(clock.pendingTimers).toBe(0);
    const text = await metrics.text();
    expect(text).toMatch(/router_queue_entries\{deployment="d"[^}]*\} 0/);
    expect(text).toMatch(/queue_ends_total\{deployment="d",outcome="left"[^}]*\} 1/);
  });

  test("give turns that come up while turns are given", () => {
    const { enter, turns, replica, queues, free } = setUp();
    enter("a");
    queues.enter(
      { deployment: "d", tenant: "t", priority: 9, deadlineMs: 1e9, bytes: 1, free: false },
      {
        // A call that fails at once: its place is free again within its own turn.
        onTurn() {
          turns.push("fails");
          queues.freed("d");
        },
        onRefused() {},
      },
    );
    free(1);
    expect(turns).toEqual(["fails", "a"]);
    expect(replica.places).toBe(0);
  });
});

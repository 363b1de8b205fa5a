import { describe, expect, test } from "vitest";
import { ReplicaState } from "#gen/helixmesh/type/v1/type_pb.ts";
import { ManualClock } from "#kernel/clock.ts";
import { Metrics } from "#kernel/metrics.ts";
import { WaitNotices, type Waiter } from "./wait-notices.ts";

function setUp() {
  const clock = new ManualClock(0);
  const looks: (string | undefined)[][] = [];
  const situation = (model: string, deployment?: string) => {
    looks.push([model, deployment]);
    return { text: "1 loading (43 %)", state: ReplicaState.LOADING, progress: 0.5, stageLeftMs: undefined };
  };
  const metrics = new Metrics("router");
  const notices = new WaitNotices(clock, { situation }, metrics);
  const client = { reads: true };
  const heard: [number, string, number | undefined][] = [];
  const waiter = (queued?: Waiter["queued"], model = "m"): Waiter => ({
    model,
    queued,
    dueMs: Number.NEGATIVE_INFINITY,
    tell({ reason, callsAhead }) {
      if (client.reads) heard.push([clock.nowMs(), reason, callsAhead]);
      return client.reads;
    },
  });
  return { clock, looks, notices, heard, waiter, client, metrics };
}

describe("notices of waits", () => {
  test("come after a quarter of a second and then once a second, while the wait lasts", () => {
    const { clock, notices, heard, waiter } = setUp();
    const one = waiter();
    notices.begin(one);
    clock.advance(2_400);
    expect(heard.map(([atMs]) => atMs)).toEqual([250, 1_250, 2_250]);
    notices.end(one);
    clock.advance(10_000);
    expect(heard).toHaveLength(3);
    expect(clock.pendingTimers).toBe(0);
  });

  test("are counted, those apart that their client had no room for", async () => {
    const { clock, notices, heard, waiter, client, metrics } = setUp();
    notices.begin(waiter());
    clock.advance(1_250);
    client.reads = false;
    clock.advance(1_000);
    expect(heard).toHaveLength(2);
    const text = await metrics.text();
    expect(text).toMatch(/wait_notices_total\{result="sent"[^}]*\} 2/);
    expect(text).toMatch(/wait_notices_total\{result="dropped"[^}]*\} 1/);
  });

  test("are not given of a wait that is over sooner", () => {
    const { clock, notices, heard, waiter } = setUp();
    const one = waiter();
    for (let waits = 0; waits < 3; waits++) {
      notices.begin(one);
      clock.advance(200);
      notices.end(one);
      clock.advance(200);
    }
    expect(heard).toEqual([]);
  });

  test("come no more often to a call that waits again and again", () => {
    const { clock, notices, heard, waiter } = setUp();
    const one = waiter();
    for (let waits = 0; waits < 10; waits++) {
      notices.begin(one);
      clock.advance(300);
      notices.end(one);
    }
    const times = heard.map(([atMs]) => atMs);
    expect(times.slice(1).every((atMs, index) => atMs - (times[index] ?? 0) >= 1_000)).toBe(true);
    expect(times).toHaveLength(3);
  });

  test("share one timer, and one look for all who wait for the same and are told together", () => {
    const { clock, looks, notices, heard, waiter } = setUp();
    const queued = (ahead: number | undefined) => ({ deployment: "d", ahead: () => ahead });
    for (const one of [waiter(queued(0)), waiter(queued(1)), waiter(queued(undefined)), waiter()]) notices.begin(one);
    expect(clock.pendingTimers).toBe(1);
    clock.advance(250);
    expect(heard.map(([, , ahead]) => ahead)).toEqual([0, 1, undefined, undefined]);
    expect(looks).toEqual([
      ["m", "d"],
      ["m", undefined],
    ]);
  });
});

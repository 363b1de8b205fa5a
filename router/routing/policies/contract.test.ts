import { describe, expect, test } from "vitest";
import type { Ask } from "../routes.ts";
import { TestFleet } from "../test-fleet.ts";
import { type PolicyName, policies } from "./index.ts";

const names = Object.keys(policies) as PolicyName[];
const block = (...hashes: number[]): Uint32Array => Uint32Array.from(hashes);
const prompts = Array.from({ length: 100 }, (_, index) => block(index * 7 + 1, index * 7 + 2));
const full = { running: 4, queued: 2 };

function asks(count: number): Partial<Ask>[] {
  return Array.from({ length: count }, (_, index) => ({ promptBlocks: prompts[index % prompts.length] }));
}

function fleet(policy: PolicyName, count: number): TestFleet {
  const fleet = new TestFleet({ policy });
  fleet.ready(count);
  return fleet;
}

describe.each(names)("the policy %s", (policy) => {
  test("chooses one that is ready", () => {
    const mesh = fleet(policy, 3);
    mesh.unlink("r2");
    expect(asks(50).map((ask) => mesh.picked(ask).replicaId)).not.toContain("r2");
  });

  test("chooses the only one, however loaded", () => {
    const mesh = fleet(policy, 1);
    mesh.load("r1", { running: 4, queued: 1_000 });
    expect(mesh.picked().replicaId).toBe("r1");
  });

  test("spreads calls over equal ones", () => {
    const mesh = fleet(policy, 4);
    const chosen = asks(100).map((ask) => {
      const picked = mesh.picked(ask);
      picked.dispatched();
      return picked.replicaId;
    });
    const counts = Object.values(Object.groupBy(chosen, (id) => id)).map((ids) => ids?.length ?? 0);
    expect(counts).toHaveLength(4);
    expect(Math.min(...counts)).toBeGreaterThanOrEqual(10);
  });

  test("is deterministic for the same chance", () => {
    const run = (): string[] => {
      const mesh = fleet(policy, 5);
      return asks(40).map((ask) => mesh.picked(ask).replicaId);
    };
    expect(run()).toEqual(run());
  });

  test("never chooses an excluded one", () => {
    const mesh = fleet(policy, 3);
    const exclude = new Set(["r1", "r3"]);
    expect(new Set(asks(30).map((ask) => mesh.picked({ ...ask, exclude }).replicaId))).toEqual(new Set(["r2"]));
    expect(new Set(asks(60).map((ask) => mesh.picked(ask).replicaId)).size).toBe(3);
  });

  test("says what it weighed, the chosen one first and at most eight", () => {
    const mesh = fleet(policy, 20);
    for (let i = 1; i <= 12; i++) mesh.holds(`r${i}`, [1, 2]);
    const { explanation, replicaId } = mesh.picked({ promptBlocks: block(1, 2), explain: true });
    expect(explanation).toMatchObject({ policy, replica: replicaId, promptBlocks: 2 });
    expect(explanation?.candidates[0]?.replica).toBe(replicaId);
    expect(explanation?.candidates.length).toBeLessThanOrEqual(8);
  });
});

describe.each(["predicted-ttft", "prefix-affinity", "least-loaded", "consistent-hash"] as const)(
  "the policy %s",
  (policy) => {
    test("does not choose a saturated one while another is free", () => {
      const mesh = fleet(policy, 40);
      for (let i = 1; i <= 40; i++) if (i !== 17) mesh.load(`r${i}`, full);
      expect(new Set(asks(50).map((ask) => mesh.picked(ask).replicaId))).toEqual(new Set(["r17"]));
    });
  },
);

describe.each(["predicted-ttft", "prefix-affinity"] as const)("the policy %s", (policy) => {
  test("goes where the longest prefix is", () => {
    const mesh = fleet(policy, 30);
    mesh.holds("r3", [1, 2]);
    mesh.holds("r8", [1, 2, 3, 4]);
    const promptBlocks = block(1, 2, 3, 4, 5);
    expect(new Set(mesh.replicas(20, { promptBlocks, promptBytes: 10_000 }))).toEqual(new Set(["r8"]));
  });

  test("leaves the longest prefix when its holder is saturated, for the next one", () => {
    const mesh = fleet(policy, 30);
    mesh.holds("r3", [1, 2]);
    mesh.holds("r8", [1, 2, 3, 4]);
    mesh.load("r8", full);
    const promptBlocks = block(1, 2, 3, 4, 5);
    expect(new Set(mesh.replicas(20, { promptBlocks, promptBytes: 10_000 }))).toEqual(new Set(["r3"]));
  });
});

describe("predicted-ttft", () => {
  test("waits for a holder rather than evaluate a long prompt anew, when that is sooner", () => {
    const mesh = fleet("predicted-ttft", 2);
    mesh.holds("r1", [1, 2, 3, 4]);
    mesh.load("r1", { running: 4, prefillTokensPerS: 10 });
    mesh.load("r2", { running: 0, prefillTokensPerS: 10 });
    expect(mesh.picked({ promptBlocks: block(1, 2, 3, 4), promptBytes: 1_024 }).replicaId).toBe("r1");
  });

  test("counts what it has sent and no report shows yet", () => {
    const mesh = fleet("predicted-ttft", 2);
    const chosen = Array.from({ length: 4 }, () => {
      const picked = mesh.picked({ promptBytes: 40_000 });
      picked.dispatched();
      return picked.replicaId;
    });
    expect(chosen.toSorted()).toEqual(["r1", "r1", "r2", "r2"]);
  });

  test("learns that a replica is slower than it says, and forgets with time", () => {
    const mesh = fleet("predicted-ttft", 2);
    for (let i = 0; i < 40; i++) {
      const picked = mesh.picked({ promptBytes: 4_000 });
      const placement = picked.dispatched();
      placement.admitted(1_000);
      mesh.clock.advance(picked.replicaId === "r1" ? 4_000 : 500);
      placement.firstToken();
      placement.ended();
    }
    expect(new Set(mesh.replicas(20, { promptBytes: 4_000 }))).toEqual(new Set(["r2"]));
    mesh.clock.advance(3_600_000);
    for (const id of ["r1", "r2"]) mesh.load(id, {});
    expect(new Set(mesh.replicas(20, { promptBytes: 4_000 }))).toEqual(new Set(["r1", "r2"]));
  });
});

describe("least-loaded", () => {
  test("adds up what runs and what waits", () => {
    const mesh = fleet("least-loaded", 3);
    mesh.load("r1", { running: 2 });
    mesh.load("r2", { running: 1 });
    mesh.load("r3", { running: 3 });
    expect(new Set(mesh.replicas(20))).toEqual(new Set(["r2"]));
  });
});

describe("the least loaded", () => {
  test("is found among loads that no pick has looked at yet, within as many picks as replicas", () => {
    const mesh = fleet("least-loaded", 40);
    for (let i = 1; i <= 40; i++) if (i !== 17) mesh.loadUnseen(`r${i}`, full);
    mesh.replicas(40);
    expect(new Set(mesh.replicas(20))).toEqual(new Set(["r17"]));
  });
});

describe("round-robin", () => {
  test("takes each in turn", () => {
    expect(fleet("round-robin", 3).replicas(6)).toEqual(["r1", "r2", "r3", "r1", "r2", "r3"]);
  });
});

describe("consistent-hash", () => {
  test("keeps a session on its replica, also on a router that learnt of the replicas in another order", () => {
    const a = fleet("consistent-hash", 20);
    const b = new TestFleet({ policy: "consistent-hash", seed: 9 });
    const ids = Array.from({ length: 20 }, (_, index) => `r${20 - index}`);
    b.discover([{ name: "d", model: "pocket" }], { d: ids });
    for (const id of ids) b.link(id);
    const sessions = Array.from({ length: 50 }, (_, index) => `session-${index}`);
    const owners = (mesh: TestFleet) => sessions.map((session) => mesh.picked({ session }).replicaId);
    expect(owners(a)).toEqual(owners(b));
    expect(owners(a)).toEqual(owners(a));
  });

  test("moves few sessions when one replica goes", () => {
    const mesh = fleet("consistent-hash", 20);
    const sessions = Array.from({ length: 400 }, (_, index) => `session-${index}`);
    const before = sessions.map((session) => mesh.picked({ session }).replicaId);
    mesh.unlink("r7");
    const after = sessions.map((session) => mesh.picked({ session }).replicaId);
    const moved = before.filter((replicaId, index) => replicaId !== after[index]);
    expect(new Set(moved)).toEqual(new Set(["r7"]));
  });

  test("bounds what one replica gets of one key", () => {
    const mesh = new TestFleet({ policy: "consistent-hash" });
    const ids = mesh.ready(10);
    for (const id of ids) mesh.link(id, { parallelSequences: 100 });
    const counts = new Map<string, number>();
    for (let i = 0; i < 100; i++) {
      const picked = mesh.picked({ promptBlocks: block(5, 6) });
      picked.dispatched();
      counts.set(picked.replicaId, (counts.get(picked.replicaId) ?? 0) + 1);
    }
    expect(Math.max(...counts.values())).toBeLessThanOrEqual(13);
  });
});

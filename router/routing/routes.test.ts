import { describe, expect, test } from "vitest";
import { ReplicaState } from "#gen/helixmesh/type/v1/type_pb.ts";
import { TestFleet, generates } from "./test-fleet.ts";

const grammar = { capability: "grammar", parameter: "response_format" } as const;

function twoModels(fallbacks: readonly string[]): TestFleet {
  const mesh = new TestFleet();
  mesh.discover(
    [
      { name: "d", model: "pocket", routing: { fallbackModels: [...fallbacks] } },
      { name: "e", model: "other" },
    ],
    { d: ["r1"], e: ["r2"] },
  );
  return mesh;
}

describe("a pick", () => {
  test.each([ReplicaState.DRAINING, ReplicaState.LOADING, ReplicaState.WARMING, ReplicaState.FAILED])(
    "leaves out a replica in state %i",
    (state) => {
      const mesh = new TestFleet();
      mesh.ready(2);
      mesh.link("r1", {}, state);
      expect(new Set(mesh.replicas(20))).toEqual(new Set(["r2"]));
    },
  );

  test("finds none ready while all links are down, and the one whose link comes back", () => {
    const mesh = new TestFleet();
    mesh.ready(3);
    for (const id of ["r1", "r2", "r3"]) mesh.unlink(id);
    expect(mesh.pick()).toEqual({ kind: "none-ready" });
    mesh.link("r2");
    expect(mesh.picked()).toMatchObject({ replicaId: "r2", nodeId: "n2", deployment: "d", model: "pocket" });
  });

  test("leaves out a replica that cannot do what the call needs, and names the parameter when none can", () => {
    const mesh = new TestFleet();
    mesh.ready(3);
    expect(mesh.pick({ needs: [generates, grammar] })).toEqual({ kind: "unsupported", need: grammar });
    mesh.link("r3", { grammar: true });
    expect(new Set(mesh.replicas(20, { needs: [generates, grammar] }))).toEqual(new Set(["r3"]));
    expect(new Set(mesh.replicas(60))).toEqual(new Set(["r1", "r2", "r3"]));
  });

  test("says so when all that could take the call are excluded", () => {
    const mesh = new TestFleet();
    mesh.ready(2);
    expect(mesh.pick({ exclude: new Set(["r1", "r2"]) })).toEqual({ kind: "excluded" });
    expect(new Set(mesh.replicas(20))).toEqual(new Set(["r1", "r2"]));
  });

  test("follows replicas that come, go and change their deployment", () => {
    const mesh = new TestFleet();
    mesh.ready(3);
    mesh.discover([{ name: "d", model: "pocket" }], { d: ["r2"] });
    expect(new Set(mesh.replicas(20))).toEqual(new Set(["r2"]));
    mesh.discover([{ name: "e", model: "pocket" }], { e: ["r1", "r2"] });
    const picked = Array.from({ length: 40 }, () => mesh.picked());
    expect(new Set(picked.map(({ replicaId, deployment }) => `${deployment}/${replicaId}`))).toEqual(
      new Set(["e/r1", "e/r2"]),
    );
  });

  test("goes to a fallback model when no replica of the model can take the call, and says which", () => {
    const mesh = twoModels(["absent", "other"]);
    mesh.link("r2");
    expect(mesh.picked()).toMatchObject({ replicaId: "r2", model: "other", deployment: "e" });
    mesh.link("r1");
    expect(mesh.picked()).toMatchObject({ replicaId: "r1", model: "pocket" });
    expect(mesh.picked({ exclude: new Set(["r1"]) })).toMatchObject({ replicaId: "r2", model: "other" });
  });

  test("does not fall back where the call itself cannot be served", () => {
    const mesh = twoModels(["other"]);
    mesh.link("r1");
    mesh.link("r2", { grammar: true });
    expect(mesh.pick({ needs: [generates, grammar] })).toEqual({ kind: "unsupported", need: grammar });
  });

  test("takes the policy that the deployment names, else the router's", () => {
    const mesh = new TestFleet({ policy: "random" });
    const deployments = [
      { name: "d", model: "pocket", routing: { policy: "round-robin" } },
      { name: "e", model: "other" },
    ];
    mesh.discover(deployments, { d: ["r1", "r2"], e: ["r3"] });
    for (const id of ["r1", "r2", "r3"]) mesh.link(id);
    expect(mesh.replicas(4)).toEqual(["r1", "r2", "r1", "r2"]);
    expect(mesh.picked({ model: "other", explain: true }).explanation?.policy).toBe("random");
  });

  test("keeps a session on one deployment and one replica until that is saturated", () => {
    const mesh = new TestFleet();
    mesh.discover(
      [
        { name: "d", model: "pocket" },
        { name: "e", model: "pocket" },
      ],
      { d: ["r1", "r2", "r3"], e: ["r4", "r5", "r6"] },
    );
    for (let i = 1; i <= 6; i++) mesh.link(`r${i}`);
    const home = mesh.picked({ session: "s", explain: true });
    expect(home.explanation?.why).toBe("session");
    expect(new Set(mesh.replicas(20, { session: "s" }))).toEqual(new Set([home.replicaId]));
    mesh.load(home.replicaId, { running: 4 });
    expect(mesh.replicas(20, { session: "s" })).not.toContain(home.replicaId);
    const sessions = Array.from({ length: 50 }, (_, i) => mesh.picked({ session: `s${i}` }).replicaId);
    expect(new Set(sessions).size).toBeGreaterThan(3);
  });

  test("for a shadow copy goes to its deployment alone", () => {
    const mesh = new TestFleet();
    mesh.discover(
      [
        { name: "d", model: "pocket" },
        { name: "s", model: "pocket", routing: { shadowPercent: 100 } },
      ],
      { d: ["r1"], s: ["r2"] },
    );
    mesh.link("r1");
    expect(mesh.routes.shadows("pocket")).toEqual(["s"]);
    expect(mesh.pick({ deployment: "s" })).toEqual({ kind: "none-ready" });
    mesh.link("r2");
    expect(mesh.picked({ deployment: "s" }).replicaId).toBe("r2");
    expect(new Set(mesh.replicas(20))).toEqual(new Set(["r1"]));
  });

  test("counts a pick for a replica that sends no digests as a guess, and finds its own prompt there again", async () => {
    const mesh = new TestFleet();
    mesh.ready(20);
    const promptBlocks = Uint32Array.from([1, 2, 3, 4]);
    const first = mesh.picked({ promptBlocks, promptBytes: 40_000 });
    first.dispatched().ended();
    const again = mesh.picked({ promptBlocks, promptBytes: 40_000, explain: true });
    expect(again.replicaId).toBe(first.replicaId);
    expect(again.explanation?.candidates[0]?.matchedBlocks).toBe(4);
    expect(await mesh.metrics.text()).toMatch(/routing_prefix_guesses_total\S* 1\n/);
  });
});

describe("a pick by a router with a zone", () => {
  const ids = Array.from({ length: 30 }, (_, index) => `r${index + 1}`);
  /** One replica in three is in the router's zone. */
  function zoned(zoneOf = (index: number) => ["a", "b", "c"][index % 3] ?? "", zone = "a"): TestFleet {
    const mesh = new TestFleet({ zone });
    place(mesh, zoneOf);
    for (const id of ids) mesh.link(id);
    return mesh;
  }
  function place(mesh: TestFleet, zoneOf: (index: number) => string): void {
    const zones = Object.fromEntries(ids.map((id, index) => [id.replace("r", "n"), zoneOf(index)]));
    mesh.discover([{ name: "d", model: "pocket" }], { d: ids }, zones);
  }
  const inZone = (picked: readonly string[]) => picked.filter((id) => (Number(id.slice(1)) - 1) % 3 === 0).length;

  test("goes to a replica of its zone where others would be no sooner by more than the penalty", () => {
    expect(inZone(zoned().replicas(100))).toBe(100);
  });

  test("goes to another zone where the first token comes sooner there", () => {
    const mesh = zoned();
    for (const [index, id] of ids.entries()) if (index % 3 === 0) mesh.load(id, { running: 1, stepTimeUs: 20_000 });
    // The few that meet nobody else by chance.
    expect(inZone(mesh.replicas(100))).toBeLessThan(20);
  });

  test("says what another zone costs", () => {
    const { explanation } = zoned().picked({ explain: true });
    const costs = explanation?.candidates.map(({ replica, awayMs }) => [inZone([replica]), awayMs]);
    expect(costs).toContainEqual([1, 0]);
    expect(costs).toContainEqual([0, 5]);
  });

  test("goes to where the zone has gone", () => {
    const mesh = zoned();
    place(mesh, (index) => (index === 4 ? "a" : "b"));
    expect(new Set(mesh.replicas(50))).toEqual(new Set(["r5"]));
  });

  test.each([
    ["it does not know its own zone", ["a", "b", "c"], ""],
    ["it does not know the nodes' zones", ["", "", ""], "a"],
    ["none of them is in its zone", ["b", "b", "c"], "a"],
  ])("goes anywhere where %s", (_why, zones, zone) => {
    const picked = new Set(zoned((index) => zones[index % 3] ?? "", zone).replicas(300));
    expect(picked.size).toBe(ids.length);
  });
});

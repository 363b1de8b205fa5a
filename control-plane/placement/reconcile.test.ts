import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { create } from "@bufbuild/protobuf";
import { ModelSchema } from "#gen/helixmesh/control/v1/control_pb.ts";
import { RegisterRequestSchema } from "#gen/helixmesh/node/v1/node_pb.ts";
import { EngineKind } from "#gen/helixmesh/type/v1/type_pb.ts";
import { ManualClock } from "#kernel/clock.ts";
import { silentLogger } from "#kernel/log.ts";
import { Metrics } from "#kernel/metrics.ts";
import { putDeployment } from "../deployments/deployments.ts";
import { registerNode } from "../nodes/register.ts";
import { insertModelVersion } from "../registry/models.ts";
import { type TestDatabase, openTestDatabase } from "../store/test-database.ts";
import { Reconciler } from "./reconcile.ts";

const leaseMs = 15_000;
const offlineGraceMs = 60_000;

let database: TestDatabase;
beforeEach(async () => {
  database = await openTestDatabase();
  await database.sql.begin((transaction) => insertModelVersion(transaction, create(ModelSchema, { name: "m" })));
});
afterEach(() => database.close());

function reconciler(clock = new ManualClock()) {
  const { sql } = database;
  return new Reconciler({ sql, clock, logger: silentLogger, metrics: new Metrics("test"), leaseMs, offlineGraceMs });
}

function put(replicas: number) {
  return putDeployment(database.sql, {
    name: "d",
    model: "m",
    engine: EngineKind.SIM,
    replicas,
    nodeLabels: {},
    maxPerNode: 1,
    contextTokens: 0,
    parallelSequences: 0,
    engineOptions: {},
    routing: undefined,
  });
}

async function register(name: string): Promise<string> {
  const request = create(RegisterRequestSchema, { name, linkAddress: "h:1", engines: [EngineKind.SIM] });
  return (await registerNode(database.sql, request, leaseMs)).nodeId;
}

const online = (): Promise<{ name: string }[]> => database.sql`SELECT name FROM nodes WHERE online ORDER BY name`;
const replicaNodes = (): Promise<{ nodeId: string }[]> =>
  database.sql`SELECT node_id FROM replicas ORDER BY created_at`;
const expire = (ms: number) =>
  database.sql`UPDATE nodes SET lease_expires_at = now() - ${ms} * interval '1 millisecond'`;

test("what is wanted is placed, and then nothing changes", async () => {
  const nodeId = await register("a");
  await put(1);
  const one = reconciler();
  expect(await one.run()).toBe("changed");
  expect(await replicaNodes()).toEqual([{ nodeId }]);
  expect(await one.run()).toBe("unchanged");
});

test("of several control planes one acts, and no replica is made twice", async () => {
  for (const name of ["a", "b", "c"]) await register(name);
  await put(3);
  const outcomes = await Promise.all([reconciler().run(), reconciler().run(), reconciler().run()]);
  expect(outcomes).toContain("changed");
  expect(outcomes).not.toContain("failed");
  expect(await replicaNodes()).toHaveLength(3);
});

describe("an expired lease", () => {
  test("takes a node offline, and after the grace time its replica is replaced", async () => {
    const clock = new ManualClock();
    const one = reconciler(clock);
    const first = await register("a");
    await put(1);
    await one.run();
    clock.advance(leaseMs - 1);
    await one.run();
    clock.advance(1);
    await expire(1);
    const second = await register("b");
    expect(await one.run()).toBe("changed");
    expect(await online()).toEqual([{ name: "b" }]);
    expect(await replicaNodes()).toEqual([{ nodeId: first }]);
    await database.sql`
      UPDATE nodes SET lease_expires_at = now() - ${offlineGraceMs + 1} * interval '1 millisecond' WHERE name = 'a'`;
    expect(await one.run()).toBe("changed");
    expect(await replicaNodes()).toEqual([{ nodeId: first }, { nodeId: second }]);
    await database.sql`UPDATE replicas SET state = 5 WHERE node_id = ${second}`;
    expect(await one.run()).toBe("changed");
    expect(await replicaNodes()).toEqual([{ nodeId: second }]);
  });

  test("is not held against a node while nobody could hear its heartbeats", async () => {
    const clock = new ManualClock();
    await register("a");
    await expire(1_000);
    const started = reconciler(clock);
    await started.run();
    expect(await online()).toHaveLength(1);
    clock.advance(leaseMs + 1);
    // Nothing ran for longer than a lease: the machine slept, or the database was away.
    await started.run();
    expect(await online()).toHaveLength(1);
    clock.advance(leaseMs / 2);
    await started.run();
    expect(await online()).toHaveLength(1);
    clock.advance(leaseMs / 2);
    await started.run();
    expect(await online()).toHaveLength(0);
  });
});

test("a replica on a node that drains is the first to go, though it still says ready", async () => {
  const one = reconciler();
  await register("a");
  const second = await register("b");
  await put(2);
  await one.run();
  await database.sql`UPDATE replicas SET state = 5`;
  await database.sql`UPDATE nodes SET draining = true WHERE name = 'a'`;
  await put(1);
  await one.run();
  const kept = await database.sql<{ nodeId: string }[]>`SELECT node_id FROM replicas WHERE NOT draining`;
  expect(kept).toEqual([{ nodeId: second }]);
});

test("a run that fails says so, and the next one does the work", async () => {
  await register("a");
  await put(1);
  await database.sql`ALTER TABLE replicas RENAME TO hidden`;
  const one = reconciler();
  expect(await one.run()).toBe("failed");
  await database.sql`ALTER TABLE hidden RENAME TO replicas`;
  expect(await one.run()).toBe("changed");
});

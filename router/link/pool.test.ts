import { create } from "@bufbuild/protobuf";
import { afterEach, describe, expect, test } from "vitest";
import { SnapshotSchema } from "#gen/helixmesh/discovery/v1/discovery_pb.ts";
import { ReplicaState } from "#gen/helixmesh/type/v1/type_pb.ts";
import { systemClock } from "#kernel/clock.ts";
import { silentLogger } from "#kernel/log.ts";
import { Metrics } from "#kernel/metrics.ts";
import { seededRandom } from "#kernel/random.ts";
import { indexSnapshot } from "../discovery/snapshot.ts";
import { NodeSubset } from "./node-subset.ts";
import { LinkPool } from "./pool.ts";
import { TestAgent } from "./test-agent.ts";
import { createWireLinkTransport } from "./wire-transport.ts";

const closers: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

function newPool(): LinkPool {
  const pool = new LinkPool({
    routerId: "router",
    instanceId: "router_1",
    subset: new NodeSubset({ own: { id: "router", zone: "" }, all: [], maxLinks: 0 }),
    transport: createWireLinkTransport({ connectTimeoutMs: 2_000, clock: systemClock }),
    connectTimeoutMs: 2_000,
    patienceMs: 1_000,
    onPrefixes: () => "ok",
    onForget: () => {},
    onHeld: () => {},
    onLoad: () => {},
    clock: systemClock,
    random: seededRandom(1),
    logger: silentLogger,
    metrics: new Metrics("test"),
  });
  closers.push(() => pool.close());
  return pool;
}

async function newAgent(...options: Parameters<typeof TestAgent.start>): Promise<TestAgent> {
  const agent = await TestAgent.start(...options);
  closers.push(() => agent.close());
  return agent;
}

function snapshotOf(agents: readonly TestAgent[], linkToken?: string) {
  const nodes = agents.map((agent) => ({
    nodeId: agent.options.nodeId,
    linkAddress: agent.address,
    linkToken: linkToken ?? agent.options.linkToken,
  }));
  return indexSnapshot(create(SnapshotSchema, { nodes }));
}

/** Waits until `condition` holds, looked at when the pool says that something changed. */
async function until(pool: LinkPool, condition: () => boolean): Promise<void> {
  while (!condition()) {
    await new Promise<void>((resolve) => {
      const stop = pool.onChange(() => {
        stop();
        resolve();
      });
    });
  }
}

describe("a pool over real sockets", () => {
  test("links every node of the snapshot and lets go of those that leave", async () => {
    const agents = [await newAgent(), await newAgent({ nodeId: "node-2", replicaIds: ["replica-2"] })];
    const pool = newPool();
    pool.follow(snapshotOf(agents));
    await until(pool, () =>
      [1, 2].every((n) => pool.replica(`node-${n}`, `replica-${n}`)?.state === ReplicaState.READY),
    );
    pool.follow(snapshotOf(agents.slice(0, 1)));
    expect(pool.replica("node-2", "replica-2")).toBeUndefined();
    expect(pool.replica("node-1", "replica-1")).toBeDefined();
  });

  test("comes back to an agent that was restarted", async () => {
    const agent = await newAgent();
    const pool = newPool();
    pool.follow(snapshotOf([agent]));
    await until(pool, () => pool.replica("node-1", "replica-1") !== undefined);
    await agent.close();
    await until(pool, () => pool.replica("node-1", "replica-1") === undefined);
    await newAgent({ port: agent.port });
    await until(pool, () => pool.replica("node-1", "replica-1") !== undefined);
    expect(pool.replica("node-1", "replica-1")?.state).toBe(ReplicaState.READY);
  });

  test("opens a new link when a node's token changed", async () => {
    const agent = await newAgent({ linkToken: "new" });
    const pool = newPool();
    pool.follow(snapshotOf([agent], "old"));
    pool.follow(snapshotOf([agent]));
    await until(pool, () => pool.replica("node-1", "replica-1") !== undefined);
    expect(agent.connectionCount).toBe(1);
  });
});

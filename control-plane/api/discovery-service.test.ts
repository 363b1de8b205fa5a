import type { MessageInitShape } from "@bufbuild/protobuf";
import { afterEach, beforeEach, expect, test } from "vitest";
import { DeploymentService, KeyService, ModelService, NodeAdminService } from "#gen/helixmesh/control/v1/control_pb.ts";
import {
  type Delta,
  DiscoveryService,
  type Snapshot,
  type WatchResponse,
} from "#gen/helixmesh/discovery/v1/discovery_pb.ts";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { type DeploymentRoutingSchema, EngineKind, KeyRole } from "#gen/helixmesh/type/v1/type_pb.ts";
import { parseApiKey } from "#kernel/api-key.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { type TestControlPlane, refusal, startTestControlPlane } from "./test-control-plane.ts";

let plane: TestControlPlane;
let abort: AbortController;
beforeEach(async () => {
  plane = await startTestControlPlane();
  abort = new AbortController();
});
afterEach(async () => {
  abort.abort();
  await plane.stop();
});

interface OpenWatch {
  readonly snapshot: Snapshot;
  /** Reads deltas until one is right, and returns it; checks that versions grow by one. */
  until(isRight: (delta: Delta) => boolean): Promise<Delta>;
  next(): Promise<IteratorResult<WatchResponse>>;
}

async function openWatch(): Promise<OpenWatch> {
  const router = plane.client(DiscoveryService, plane.keys.router);
  const messages = router.watch({ routerId: "r" }, { signal: abort.signal })[Symbol.asyncIterator]();
  const first = (await messages.next()).value?.update;
  if (first?.case !== "snapshot") throw new Error("the first message is no snapshot");
  let { version } = first.value;
  return {
    snapshot: first.value,
    next: () => messages.next(),
    async until(isRight) {
      for (;;) {
        const update = (await messages.next()).value?.update;
        if (update?.case !== "delta") throw new Error("a later message is no delta");
        expect(update.value.version).toBe(version + 1n);
        version += 1n;
        if (isRight(update.value)) return update.value;
      }
    },
  };
}

test("the snapshot holds inference keys by hash, and no other key", async () => {
  const { snapshot } = await openWatch();
  const key = parseApiKey(plane.keys.inference);
  expect(snapshot.keys).toMatchObject([
    {
      keyId: key?.id,
      secretSha256: new Uint8Array(key?.secretSha256 ?? []),
      role: KeyRole.INFERENCE,
      projectId: "default",
    },
  ]);
});

test("models appear when they are deployed, with their aliases, nodes and replicas", async () => {
  const models = plane.client(ModelService, plane.keys.operator);
  await models.createModel({ model: { name: "idle" } });
  await models.createModel({ model: { name: "pocket", aliases: ["small"] } });
  const watch = await openWatch();
  expect(watch.snapshot.models).toEqual([]);
  const { nodeId, linkToken } = await plane.registerNode("a");
  const node = await watch.until((delta) => (delta.upserts?.nodes.length ?? 0) > 0);
  expect(node.upserts?.nodes).toMatchObject([{ nodeId, name: "a", linkAddress: "127.0.0.1:8082", linkToken }]);
  await plane.client(DeploymentService, plane.keys.operator).putDeployment({
    deployment: { name: "chat", model: "pocket", engine: EngineKind.SIM, replicas: 1 },
  });
  const replica = await watch.until((delta) => (delta.upserts?.replicas.length ?? 0) > 0);
  expect(replica.upserts?.replicas).toMatchObject([{ deployment: "chat", nodeId }]);
  const { snapshot } = await openWatch();
  expect(snapshot).toMatchObject({
    models: [{ name: "pocket" }],
    aliases: [{ name: "small", model: "pocket" }],
    deployments: [{ name: "chat", model: "pocket" }],
    replicas: [{ nodeId }],
  });
});

test("a deployment brings its routing, and a change of it alone is a delta", async () => {
  await plane.client(ModelService, plane.keys.operator).createModel({ model: { name: "pocket" } });
  const deployments = plane.client(DeploymentService, plane.keys.operator);
  const put = (routing?: MessageInitShape<typeof DeploymentRoutingSchema>) =>
    deployments.putDeployment({
      deployment: { name: "chat", model: "pocket", engine: EngineKind.SIM, ...(routing && { routing }) },
    });
  const watch = await openWatch();
  const nextDeployment = async () => {
    const delta = await watch.until(({ upserts }) => (upserts?.deployments.length ?? 0) > 0);
    return delta.upserts?.deployments[0];
  };
  await put({ policy: "random", weight: 7 });
  expect(await nextDeployment()).toMatchObject({ name: "chat", routing: { policy: "random", weight: 7 } });
  await put({ canary: "beta" });
  expect(await nextDeployment()).toMatchObject({ name: "chat", routing: { policy: "", weight: 0, canary: "beta" } });
  expect((await openWatch()).snapshot.deployments).toMatchObject([{ routing: { canary: "beta" } }]);
  await put();
  expect(await nextDeployment()).not.toHaveProperty("routing");
});

test("an alias of an alias comes with the model that it leads to, and moves with it", async () => {
  const models = plane.client(ModelService, plane.keys.operator);
  const deployments = plane.client(DeploymentService, plane.keys.operator);
  for (const name of ["first", "second"]) {
    await models.createModel({ model: { name } });
    await deployments.putDeployment({ deployment: { name, model: name, engine: EngineKind.SIM } });
  }
  const watch = await openWatch();
  const leadTo = (model: string) => (delta: Delta) =>
    delta.upserts?.aliases.some((alias) => alias.name === "default" && alias.model === model) ?? false;
  await models.setAlias({ alias: "stable", model: "first" });
  await models.setAlias({ alias: "default", model: "stable" });
  await watch.until(leadTo("first"));
  await models.setAlias({ alias: "stable", model: "second" });
  expect((await watch.until(leadTo("second"))).upserts?.aliases).toMatchObject([
    { name: "default", model: "second" },
    { name: "stable", model: "second" },
  ]);
});

test("a node comes with its zone, and again when it has moved to another", async () => {
  const watch = await openWatch();
  const nextZones = async () =>
    (await watch.until((delta) => (delta.upserts?.nodes.length ?? 0) > 0)).upserts?.nodes.map(({ zone }) => zone);
  await plane.registerNode("zoned", { zone: "eu-1a" });
  expect(await nextZones()).toEqual(["eu-1a"]);
  await plane.registerNode("zoned", { zone: "eu-1b" });
  expect(await nextZones()).toEqual(["eu-1b"]);
  const { nodes } = await plane.client(NodeAdminService, plane.keys.operator).listNodes({});
  expect(nodes).toMatchObject([{ name: "zoned", zone: "eu-1b" }]);
});

test("a node that goes offline is removed with its replicas, and comes back with them", async () => {
  await plane.client(ModelService, plane.keys.operator).createModel({ model: { name: "pocket" } });
  const watch = await openWatch();
  const { nodeId } = await plane.registerNode("a");
  await plane.client(DeploymentService, plane.keys.operator).putDeployment({
    deployment: { name: "chat", model: "pocket", engine: EngineKind.SIM, replicas: 1 },
  });
  const placed = await watch.until((delta) => (delta.upserts?.replicas.length ?? 0) > 0);
  const replicaId = placed.upserts?.replicas[0]?.replicaId;
  await plane.database.sql`UPDATE nodes SET online = false`;
  expect(await watch.until((delta) => delta.removedNodes.length > 0)).toMatchObject({
    removedNodes: [nodeId],
    removedReplicas: [replicaId],
  });
  await plane.registerNode("a");
  const back = await watch.until((delta) => (delta.upserts?.nodes.length ?? 0) > 0);
  expect(back.upserts).toMatchObject({ nodes: [{ nodeId }], replicas: [{ replicaId }] });
});

test("a new key comes and a revoked or expired one goes", async () => {
  const watch = await openWatch();
  const keys = plane.client(KeyService, plane.keys.operator);
  const { key } = await keys.createKey({ name: "new", role: KeyRole.INFERENCE });
  const keyId = key?.keyId ?? "";
  const added = await watch.until((delta) => (delta.upserts?.keys.length ?? 0) > 0);
  expect(added.upserts?.keys).toMatchObject([{ keyId }]);
  await keys.revokeKey({ keyId });
  expect(await watch.until((delta) => delta.removedKeys.length > 0)).toMatchObject({ removedKeys: [keyId] });

  const expiring = await keys.createKey({
    name: "soon",
    role: KeyRole.INFERENCE,
    expiresAtMs: BigInt(Date.now() + 1_000),
  });
  expect(await watch.until((delta) => delta.removedKeys.length > 0)).toMatchObject({
    removedKeys: [expiring.key?.keyId],
  });
});

test("a drain ends watches with DRAINING, so that routers turn elsewhere", async () => {
  const watch = await openWatch();
  const ended = refusal(watch.next());
  await plane.stop();
  expect(await ended).toMatchObject({ reason: Reason.DRAINING });
  plane = await startTestControlPlane();
});

test("a watch needs a router's name", async () => {
  const router = plane.client(DiscoveryService, plane.keys.router);
  const watch = router.watch({ routerId: "" })[Symbol.asyncIterator]();
  expect(MeshError.from(await watch.next().catch((error: unknown) => error))).toMatchObject({ field: "router_id" });
});

import { createHmac } from "node:crypto";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import {
  DeploymentService,
  ModelService,
  NodeAdminService,
  UsageDimension,
  UsageService,
} from "#gen/helixmesh/control/v1/control_pb.ts";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { NodeService, type RegisterResponse } from "#gen/helixmesh/node/v1/node_pb.ts";
import { EngineKind, Outcome, ReplicaState } from "#gen/helixmesh/type/v1/type_pb.ts";
import { DiscoveryService } from "#gen/helixmesh/discovery/v1/discovery_pb.ts";
import { type TestControlPlane, eventually, refusal, startTestControlPlane } from "./test-control-plane.ts";

let plane: TestControlPlane;
beforeAll(async () => {
  plane = await startTestControlPlane();
});
afterAll(() => plane.stop());

let names = 0;
let node: RegisterResponse;
beforeEach(async () => {
  node = await plane.registerNode(`node-${names++}`);
});

const as = (registered: RegisterResponse) => plane.client(NodeService, registered.nodeToken);

describe("Register", () => {
  test("gives a token, the link token of the node and the terms of the lease", async () => {
    const [secret] = await plane.database.sql<{ value: string }[]>`
      SELECT value FROM mesh_settings WHERE key = 'link_secret'`;
    expect(node.linkToken).toBe(
      createHmac("sha256", secret?.value ?? "")
        .update(node.nodeId)
        .digest("hex"),
    );
    expect(node).toMatchObject({ heartbeatIntervalMs: 4_000, leaseMs: 15_000 });
    const [row] = await plane.database.sql<{ text: string }[]>`
      SELECT nodes::text AS text FROM nodes WHERE id = ${node.nodeId}`;
    expect(row?.text).toContain(node.nodeId);
    expect(row?.text).not.toContain(node.nodeToken.slice(-48));
  });

  test("again keeps id and link token, and ends the old node token", async () => {
    const again = await plane.registerNode(`node-${names - 1}`);
    expect(again).toMatchObject({ nodeId: node.nodeId, linkToken: node.linkToken });
    expect(again.nodeToken).not.toBe(node.nodeToken);
    await as(again).heartbeat({ nodeId: again.nodeId });
    expect(await refusal(as(node).heartbeat({ nodeId: node.nodeId }))).toMatchObject({
      reason: Reason.INVALID_API_KEY,
    });
  });

  test.each([
    ["name", { name: "A" }, "a-z, 0-9 and hyphen"],
    ["link_address", { linkAddress: "nowhere" }, "host:port"],
    ["link_address", { linkAddress: "host:0" }, "host:port"],
    ["engines", { engines: [] }, "at least one engine"],
    ["zone", { zone: "eu/1a" }, "begin and end with a letter or digit"],
    ["host.hostname", { host: { hostname: "h".repeat(300) } }, "at most 255"],
  ])("refuses a bad %s", async (field, changes, words) => {
    const request = { name: "a", linkAddress: "[::1]:8082", engines: [EngineKind.SIM], ...changes };
    const refused = await refusal(plane.client(NodeService, plane.keys.node).register(request));
    expect(refused).toMatchObject({ reason: Reason.INVALID_REQUEST, field });
    expect(refused.message).toContain(words);
  });
});

describe("a node token", () => {
  test("speaks for its own node only", async () => {
    const other = await plane.registerNode("other");
    const client = as(node);
    const watch = client.watchDesiredState({ nodeId: other.nodeId })[Symbol.asyncIterator]();
    const refusals = await Promise.all([
      refusal(client.heartbeat({ nodeId: other.nodeId })),
      refusal(client.reportStatus({ nodeId: other.nodeId })),
      refusal(client.reportUsage({ nodeId: other.nodeId })),
      refusal(watch.next()),
    ]);
    for (const refused of refusals)
      expect(refused).toMatchObject({ reason: Reason.PERMISSION_DENIED, field: "node_id" });
  });

  test("is not a key, and a key is not a node token", async () => {
    expect(await refusal(plane.client(NodeService, plane.keys.node).heartbeat({ nodeId: node.nodeId }))).toMatchObject({
      reason: Reason.INVALID_API_KEY,
    });
    expect(await refusal(as(node).register({ name: "a" }))).toMatchObject({ reason: Reason.INVALID_API_KEY });
  });

  test("of a deleted node gets NOT_FOUND, which means register again", async () => {
    await plane.database.sql`DELETE FROM nodes WHERE id = ${node.nodeId}`;
    expect(await refusal(as(node).heartbeat({ nodeId: node.nodeId }))).toMatchObject({ reason: Reason.NOT_FOUND });
  });
});

test("a heartbeat renews the lease and brings an offline node back", async () => {
  const { sql } = plane.database;
  await sql`UPDATE nodes SET online = false, lease_expires_at = now() - interval '1 hour' WHERE id = ${node.nodeId}`;
  const { leaseExpiresAtMs } = await as(node).heartbeat({ nodeId: node.nodeId, runningCalls: 3 });
  expect(Number(leaseExpiresAtMs)).toBeGreaterThan(Date.now() + 5_000);
  const { nodes } = await plane.client(NodeAdminService, plane.keys.operator).listNodes({});
  expect(nodes.find((one) => one.nodeId === node.nodeId)).toMatchObject({ online: true, runningCalls: 3 });
});

test("a status is what operators see", async () => {
  const operator = plane.keys.operator;
  await plane.client(ModelService, operator).createModel({ model: { name: "m" } });
  const label = { owner: "status" };
  const special = await plane.registerNode("special", { labels: label });
  const deployments = plane.client(DeploymentService, operator);
  await deployments.putDeployment({
    deployment: { name: "d", model: "m", engine: EngineKind.SIM, replicas: 1, nodeLabels: label },
  });
  const watch = as(special).watchDesiredState({ nodeId: special.nodeId });
  let replicaId = "";
  for await (const { replicas } of watch) {
    replicaId = replicas[0]?.replicaId ?? "";
    if (replicaId !== "") break;
  }
  await as(special).reportStatus({
    nodeId: special.nodeId,
    host: { cpuUtilization: 0.5, memoryUsedBytes: 5n },
    replicas: [
      { replicaId, state: ReplicaState.FAILED, message: "out of memory", progress: 0.25, engineRestarts: 2 },
      { replicaId: "replica_unknown", state: ReplicaState.READY },
    ],
  });
  const { deployment } = await deployments.getDeployment({ name: "d" });
  expect(deployment?.current[0]?.status).toMatchObject({
    state: ReplicaState.FAILED,
    message: "out of memory",
    progress: 0.25,
    engineRestarts: 2,
  });
  const { nodes } = await plane.client(NodeAdminService, operator).listNodes({});
  expect(nodes.find((one) => one.name === "special")).toMatchObject({
    load: { cpuUtilization: 0.5, memoryUsedBytes: 5n },
    host: { hostname: "special" },
  });
  expect(await refusal(as(special).reportStatus({ nodeId: special.nodeId, replicas: [{ replicaId }] }))).toMatchObject({
    reason: Reason.INVALID_REQUEST,
    field: "replicas[0].state",
  });
});

test("a watch of desired state begins at once, with nothing for a node that runs nothing", async () => {
  const { value } = await as(node).watchDesiredState({ nodeId: node.nodeId })[Symbol.asyncIterator]().next();
  expect(value).toMatchObject({ replicas: [] });
});

test("usage of router and agent is one call in the ledger, priced and summed", async () => {
  const operator = plane.keys.operator;
  await plane.client(ModelService, operator).createModel({
    model: { name: "billed", price: { promptNanosPerToken: 2n, cachedNanosPerToken: 1n, completionNanosPerToken: 5n } },
  });
  const startedAtMs = BigInt(Date.now() + 1_000);
  const record = {
    callId: "call-1",
    model: "billed",
    deployment: "d",
    nodeId: node.nodeId,
    outcome: Outcome.COMPLETED,
    usage: { promptTokens: 10, cachedTokens: 4, completionTokens: 3 },
    startedAtMs,
    durationMs: 20n,
  };
  const router = plane.client(DiscoveryService, plane.keys.router);
  const routed = { ...record, keyId: "k", projectId: "default", door: "grpc", attempts: 1 };
  await as(node).reportUsage({ nodeId: node.nodeId, records: [record] });
  await router.reportUsage({ routerId: "r1", records: [routed] });
  await router.reportUsage({ routerId: "r1", records: [routed] });
  const usage = plane.client(UsageService, operator);
  const filter = { model: "billed" };
  const summary = await usage.summarizeUsage({ filter, groupBy: [UsageDimension.MODEL, UsageDimension.KEY] });
  expect(summary.summaries).toMatchObject([
    { group: ["billed", "k"], calls: 1n, promptTokens: 10n, cachedTokens: 4n, completionTokens: 3n, costNanos: 31n },
  ]);
  const { entries } = await usage.listUsage({ filter });
  expect(entries).toMatchObject([
    { record: { callId: "call-1", door: "grpc" }, costNanos: 31n, agentUsage: { completionTokens: 3 } },
  ]);
  expect(await refusal(usage.listUsage({ filter: { fromMs: 5n, toMs: 5n } }))).toMatchObject({ field: "filter.to_ms" });
  const many = Array.from({ length: 1_001 }, (_, index) => ({ ...routed, callId: `c${index}` }));
  expect(await refusal(router.reportUsage({ routerId: "r1", records: many }))).toMatchObject({ field: "records" });
});

test("metrics count nodes, watchers and runs", async () => {
  const text = await eventually(
    async () => (await fetch(`${plane.adminUrl}/metrics`)).text(),
    (metrics) => /helixmesh_nodes\{state="online",service="control-plane"\} [1-9]/.test(metrics),
  );
  expect(text).toMatch(/helixmesh_watchers\{kind="node"/);
  expect(text).toMatch(/helixmesh_reconcile_runs_total\{outcome="unchanged"/);
  expect(text).toMatch(/helixmesh_ledger_reports_total\{/);
});

import type { MessageInitShape } from "@bufbuild/protobuf";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import {
  type Deployment,
  DeploymentService,
  ModelService,
  NodeAdminService,
} from "#gen/helixmesh/control/v1/control_pb.ts";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { NodeService, type RegisterResponse } from "#gen/helixmesh/node/v1/node_pb.ts";
import { type DeploymentRoutingSchema, EngineKind, ReplicaState } from "#gen/helixmesh/type/v1/type_pb.ts";
import { type TestControlPlane, eventually, refusal, startTestControlPlane } from "./test-control-plane.ts";

let plane: TestControlPlane;
beforeEach(async () => {
  plane = await startTestControlPlane();
  await plane.client(ModelService, plane.keys.operator).createModel({
    model: { name: "pocket", source: "builtin:pocket" },
  });
});
afterEach(() => plane.stop());

const deployments = () => plane.client(DeploymentService, plane.keys.operator);

interface Changes {
  readonly name?: string;
  readonly model?: string;
  readonly engine?: EngineKind;
  readonly replicas?: number;
  readonly nodeLabels?: Record<string, string>;
  readonly maxReplicasPerNode?: number;
  readonly contextTokens?: number;
  readonly parallelSequences?: number;
  readonly routing?: MessageInitShape<typeof DeploymentRoutingSchema>;
}

function put(changes: Changes) {
  return deployments().putDeployment({
    deployment: { name: "chat", model: "pocket", engine: EngineKind.SIM, replicas: 1, ...changes },
  });
}

function eventuallyDeployed(isRight: (deployment: Deployment) => boolean): Promise<Deployment> {
  return eventually(async () => {
    const { deployment } = await deployments().getDeployment({ name: "chat" });
    expect(deployment).toBeDefined();
    return deployment as Deployment;
  }, isRight);
}

/** Reports every replica that the node should run as ready, as an agent would. */
async function becomeReady(node: RegisterResponse, replicaIds: readonly string[]): Promise<void> {
  await plane.client(NodeService, node.nodeToken).reportStatus({
    nodeId: node.nodeId,
    replicas: replicaIds.map((replicaId) => ({ replicaId, state: ReplicaState.READY })),
  });
}

const idsOf = (deployment: Deployment): string[] => deployment.current.map((replica) => replica.replicaId);

describe("PutDeployment", () => {
  test("says why nothing is placed, and places when a node comes", async () => {
    await put({});
    const waiting = await eventuallyDeployed((deployment) => deployment.unplacedReason !== "");
    expect(waiting).toMatchObject({ current: [], unplacedReason: expect.stringContaining("start a node agent") });
    await plane.registerNode("a");
    const placed = await eventuallyDeployed((deployment) => deployment.current.length === 1);
    expect(placed).toMatchObject({
      unplacedReason: "",
      maxReplicasPerNode: 1,
      current: [{ nodeName: "a", status: { state: ReplicaState.ABSENT } }],
    });
  });

  test("changes what runs by new replicas before old", async () => {
    const node = await plane.registerNode("a");
    await put({});
    const [first = ""] = idsOf(await eventuallyDeployed((deployment) => deployment.current.length === 1));
    await becomeReady(node, [first]);
    await put({ contextTokens: 512 });
    const both = idsOf(await eventuallyDeployed((deployment) => deployment.current.length === 2));
    const second = both.find((id) => id !== first) ?? "";
    await becomeReady(node, [first, second]);
    // The agent is told to drop the first, and reports what is left.
    const watch = plane.client(NodeService, node.nodeToken).watchDesiredState({ nodeId: node.nodeId });
    for await (const { replicas } of watch) {
      if (replicas.length === 1 && replicas[0]?.replicaId === second) break;
    }
    await becomeReady(node, [second]);
    const after = await eventuallyDeployed((deployment) => deployment.current.length === 1);
    expect(idsOf(after)).toEqual([second]);
  });

  test("a new version of the model is rolled out", async () => {
    const node = await plane.registerNode("a");
    await put({ engine: EngineKind.LLAMA_CPP });
    await eventuallyDeployed((deployment) => deployment.current.length === 1);
    await plane.client(ModelService, plane.keys.operator).createModel({
      model: { name: "pocket", source: "file:///models/pocket-2.gguf" },
    });
    const watch = plane.client(NodeService, node.nodeToken).watchDesiredState({ nodeId: node.nodeId });
    const sources: string[] = [];
    for await (const { replicas } of watch) {
      sources.splice(0, sources.length, ...replicas.map((replica) => replica.source));
      if (sources.includes("file:///models/pocket-2.gguf")) break;
    }
    expect(sources).toContain("file:///models/pocket-2.gguf");
  });

  test("replicas are spread over nodes whose labels match, and scale in place", async () => {
    await plane.registerNode("a", { labels: { zone: "x" } });
    await plane.registerNode("b", { labels: { zone: "x" } });
    await plane.registerNode("c");
    await put({ replicas: 3, nodeLabels: { zone: "x" } });
    const placed = await eventuallyDeployed(
      (deployment) => deployment.current.length === 2 && deployment.unplacedReason !== "",
    );
    expect(placed.current.map((replica) => replica.nodeName).sort()).toEqual(["a", "b"]);
    expect(placed.unplacedReason).toContain("1 node without the labels zone=x");
    await put({ replicas: 4, nodeLabels: { zone: "x" }, maxReplicasPerNode: 2 });
    const more = await eventuallyDeployed((deployment) => deployment.current.length === 4);
    expect(idsOf(more)).toEqual(expect.arrayContaining(idsOf(placed)));
  });

  test.each([
    ["deployment.name", { name: "Chat" }, "a-z, 0-9 and hyphen"],
    ["deployment.model", { model: "" }, "must not be empty"],
    ["deployment.engine", { engine: EngineKind.UNSPECIFIED }, "ENGINE_KIND_LLAMA_CPP or ENGINE_KIND_SIM"],
    ["deployment.replicas", { replicas: 1_001 }, "at most 1000 replicas"],
    [
      "deployment.node_labels",
      { nodeLabels: Object.fromEntries(Array.from({ length: 33 }, (_, i) => [`k${i}`, ""])) },
      "33",
    ],
    ["deployment.parallel_sequences", { parallelSequences: 5_000 }, "at most 4096 sequences"],
  ])("refuses a bad %s", async (field, changes, words) => {
    const refused = await refusal(put(changes));
    expect(refused).toMatchObject({ reason: Reason.INVALID_REQUEST, field });
    expect(refused.message).toContain(words);
  });

  test("refuses a model that is not registered, and one without weights for an engine that needs them", async () => {
    expect(await refusal(put({ model: "nobody" }))).toMatchObject({
      reason: Reason.NOT_FOUND,
      field: "deployment.model",
    });
    const models = plane.client(ModelService, plane.keys.operator);
    await models.createModel({ model: { name: "weightless" } });
    expect(await refusal(put({ model: "weightless", engine: EngineKind.LLAMA_CPP }))).toMatchObject({
      reason: Reason.INVALID_REQUEST,
      field: "deployment.engine",
    });
  });
});

describe("a deployment's routing", () => {
  const routing = {
    policy: "consistent-hash",
    weight: 1_000,
    canary: "beta 2",
    shadowPercent: 100,
    hedgeAfterMs: 250,
    hedgePercent: 10,
    fallbackModels: ["second", "third"],
  };
  beforeEach(async () => {
    const models = plane.client(ModelService, plane.keys.operator);
    await models.createModel({ model: { name: "second", aliases: ["other"] } });
    await models.createModel({ model: { name: "third" } });
  });

  test("is kept whole, and gone when it is put without", async () => {
    expect((await put({ routing })).deployment?.routing).toMatchObject(routing);
    const { deployments: listed } = await deployments().listDeployments({});
    expect(listed[0]?.routing).toMatchObject(routing);
    expect((await put({})).deployment?.routing).toBe(undefined);
  });

  test("changes without new replicas", async () => {
    await plane.registerNode("a");
    await put({});
    const before = idsOf(await eventuallyDeployed((deployment) => deployment.current.length === 1));
    await put({ routing });
    const { sql } = plane.database;
    expect(await sql`SELECT generation FROM deployments`).toMatchObject([{ generation: 1 }]);
    expect(idsOf(await eventuallyDeployed(() => true))).toEqual(before);
  });

  test.each([
    ["policy", { policy: "fastest" }, 'is "fastest"; it takes predicted-ttft, prefix-affinity, least-loaded'],
    ["weight", { weight: 1_001 }, "is 1001; at most 1000"],
    ["canary", { canary: " beta" }, "printable ASCII"],
    ["canary", { canary: "x".repeat(129) }, "has 129 characters; at most 128"],
    ["shadow_percent", { shadowPercent: 101 }, "is 101; at most 100 per cent"],
    ["hedge_after_ms", { hedgeAfterMs: 600_001 }, "at most 600000 milliseconds"],
    ["hedge_percent", { hedgeAfterMs: 1, hedgePercent: 101 }, "is 101; at most 100 per cent"],
    ["hedge_percent", { hedgePercent: 1 }, "no hedges without hedge_after_ms"],
    ["fallback_models", { fallbackModels: Array.from({ length: 9 }, (_, i) => `m${i}`) }, "has 9 entries; at most 8"],
    ["fallback_models[1]", { fallbackModels: ["second", "a b"] }, 'is "a b"'],
    ["fallback_models[1]", { fallbackModels: ["second", "second"] }, 'repeats "second"'],
    ["fallback_models[0]", { fallbackModels: ["pocket"] }, "the deployment's own model"],
  ])("refuses a bad %s: %j", async (field, bad, words) => {
    const refused = await refusal(put({ routing: bad }));
    expect(refused).toMatchObject({ reason: Reason.INVALID_REQUEST, field: `deployment.routing.${field}` });
    expect(refused.message).toContain(words);
  });

  test("names as fallbacks only models that are registered", async () => {
    const field = "deployment.routing.fallback_models[1]";
    const unknown = await refusal(put({ routing: { fallbackModels: ["third", "nobody"] } }));
    expect(unknown).toMatchObject({ reason: Reason.NOT_FOUND, field });
    const alias = await refusal(put({ routing: { fallbackModels: ["third", "other"] } }));
    expect(alias).toMatchObject({ reason: Reason.NOT_FOUND, field });
    expect(alias.message).toContain('is an alias of "second": name that');
  });

  test("may not lead back to its own model over others' fallbacks", async () => {
    await put({ routing: { fallbackModels: ["second"] } });
    await put({ name: "chat2", model: "second", routing: { fallbackModels: ["third"] } });
    const refused = await refusal(put({ name: "chat3", model: "third", routing: { fallbackModels: ["pocket"] } }));
    expect(refused).toMatchObject({
      reason: Reason.INVALID_REQUEST,
      field: "deployment.routing.fallback_models",
    });
    expect(refused.message).toContain("third → pocket → second → third");
    await put({ name: "chat3", model: "third" });
  });
});

test("DeleteDeployment empties its nodes", async () => {
  const node = await plane.registerNode("a");
  await put({});
  await eventuallyDeployed((deployment) => deployment.current.length === 1);
  await deployments().deleteDeployment({ name: "chat" });
  const watch = plane.client(NodeService, node.nodeToken).watchDesiredState({ nodeId: node.nodeId });
  for await (const { replicas } of watch) if (replicas.length === 0) break;
  await becomeReady(node, []);
  const { sql } = plane.database;
  await eventually(
    () => sql`SELECT id FROM replicas`,
    (rows) => rows.length === 0,
  );
  expect(await refusal(deployments().getDeployment({ name: "chat" }))).toMatchObject({ reason: Reason.NOT_FOUND });
  expect((await deployments().listDeployments({})).deployments).toEqual([]);
});

describe("nodes", () => {
  const nodes = () => plane.client(NodeAdminService, plane.keys.operator);

  test("a cordoned node gets no replicas until it is lifted", async () => {
    const { nodeId } = await plane.registerNode("a");
    expect((await nodes().setNodeCordon({ nodeId, cordoned: true })).node).toMatchObject({ name: "a", cordoned: true });
    await put({});
    const waiting = await eventuallyDeployed((deployment) => deployment.unplacedReason !== "");
    expect(waiting.unplacedReason).toContain("1 node cordoned");
    await nodes().setNodeCordon({ nodeId, cordoned: false });
    await eventuallyDeployed((deployment) => deployment.current.length === 1);
  });

  test("only an offline node can be deleted, and its replicas go with it", async () => {
    const { nodeId } = await plane.registerNode("a");
    await put({});
    await eventuallyDeployed((deployment) => deployment.current.length === 1);
    expect(await refusal(nodes().deleteNode({ nodeId }))).toMatchObject({ reason: Reason.CONFLICT, field: "node_id" });
    await plane.database.sql`UPDATE nodes SET online = false`;
    await nodes().deleteNode({ nodeId });
    await eventuallyDeployed((deployment) => deployment.current.length === 0);
    expect((await nodes().listNodes({})).nodes).toEqual([]);
    expect(await refusal(nodes().deleteNode({ nodeId }))).toMatchObject({ reason: Reason.NOT_FOUND });
  });
});

import {
  type Deployment,
  DeploymentSchema,
  DeploymentService,
  type Replica,
} from "#gen/helixmesh/control/v1/control_pb.ts";
import { ReplicaState } from "#gen/helixmesh/type/v1/type_pb.ts";
import { type Command, type Input, parseInteger } from "./command.ts";
import { allPages } from "./pages.ts";
import { readRouting, routingOptions, routingWords } from "./routing.ts";
import type { Session } from "./session.ts";
import { details, table } from "./table.ts";
import { engines, replicaStates } from "./words.ts";

const name = { name: "NAME", doc: "The deployment's name." } as const;

export const deploymentCommands: readonly Command[] = [
  { path: ["deployments", "list"], summary: "List deployments and how many of their replicas are ready.", run: list },
  {
    path: ["deployments", "get"],
    summary: "Show one deployment with its replicas.",
    positionals: [name],
    async run(input, session) {
      const answer = await session.control(DeploymentService).getDeployment({ name: input.positional("NAME") });
      printDeployment(session, answer.deployment);
    },
  },
  {
    path: ["deployments", "put"],
    summary: "Create a deployment, or replace it whole: what is not given is reset to its default.",
    positionals: [name],
    options: [
      { name: "model", value: "NAME", doc: "The model it serves.", required: true },
      { name: "engine", value: "ENGINE", doc: `What runs it: ${engines.all}. [llama.cpp]` },
      { name: "replicas", value: "N", doc: "Copies wanted, 0 to 1000. [1]" },
      { name: "max-per-node", value: "N", doc: "Most copies on one node. [1]" },
      { name: "label", value: "KEY=VALUE", doc: "Node label that must match.", multiple: true },
      { name: "context", value: "TOKENS", doc: "Context of one sequence. [the model's]" },
      { name: "parallel", value: "N", doc: "Sequences at once per replica. [the agent's default]" },
      { name: "engine-option", value: "KEY=VALUE", doc: "Setting of the engine.", multiple: true },
      ...routingOptions,
    ],
    run: put,
  },
  {
    path: ["deployments", "scale"],
    summary: "Change how many replicas are wanted, and nothing else.",
    positionals: [name, { name: "REPLICAS", doc: "Copies wanted, 0 to 1000." }],
    run: scale,
  },
  {
    path: ["deployments", "delete"],
    summary: "Drain and remove a deployment's replicas.",
    positionals: [name],
    async run(input, session) {
      await session.control(DeploymentService).deleteDeployment({ name: input.positional("NAME") });
      session.confirm(`Deleted deployment ${input.positional("NAME")}.`, { deleted: input.positional("NAME") });
    },
  },
];

async function list(_input: Input, session: Session): Promise<void> {
  const client = session.control(DeploymentService);
  const deployments = await allPages(async (pageToken, pageSize) => {
    const page = await client.listDeployments({ pageToken, pageSize });
    return { items: page.deployments, nextPageToken: page.nextPageToken };
  });
  session.printList(DeploymentSchema, deployments, () =>
    table(
      deployments,
      [
        { title: "name", cell: (d) => d.name },
        { title: "model", cell: (d) => d.model },
        { title: "engine", cell: (d) => engines.word(d.engine) },
        { title: "ready", cell: ready },
        { title: "nodes", cell: (d) => [...new Set(d.current.map((r) => r.nodeName))].join(", ") || "-" },
        { title: "routing", cell: (d) => routingWords(d.routing) },
        { title: "trouble", cell: trouble },
      ],
      "No deployments. Make one with `helixmesh deployments put`.",
    ),
  );
}

async function put(input: Input, session: Session): Promise<void> {
  const routing = readRouting(input);
  const answer = await session.control(DeploymentService).putDeployment({
    deployment: {
      name: input.positional("NAME"),
      model: input.text("model") ?? "",
      engine: engines.parse("--engine", input.text("engine") ?? "llama.cpp"),
      replicas: input.integer("replicas") ?? 1,
      maxReplicasPerNode: input.integer("max-per-node") ?? 0,
      nodeLabels: input.pairs("label"),
      contextTokens: input.integer("context") ?? 0,
      parallelSequences: input.integer("parallel") ?? 0,
      engineOptions: input.pairs("engine-option"),
      ...(routing && { routing }),
    },
  });
  printDeployment(session, answer.deployment);
}

async function scale(input: Input, session: Session): Promise<void> {
  const replicas = parseInteger("REPLICAS", input.positional("REPLICAS"));
  const client = session.control(DeploymentService);
  const { deployment } = await client.getDeployment({ name: input.positional("NAME") });
  if (!deployment) throw new Error("The control plane answered without a deployment.");
  const answer = await client.putDeployment({ deployment: { ...deployment, replicas, current: [] } });
  printDeployment(session, answer.deployment);
}

function printDeployment(session: Session, deployment: Deployment | undefined): void {
  if (!deployment) throw new Error("The control plane answered without a deployment.");
  session.print(DeploymentSchema, deployment, () => {
    const text = details([
      ["name", deployment.name],
      ["model", deployment.model],
      ["engine", engines.word(deployment.engine)],
      ["replicas", `${deployment.current.filter(isReady).length} ready of ${deployment.replicas} wanted`],
      ["max per node", String(deployment.maxReplicasPerNode || 1)],
      ["context", deployment.contextTokens === 0 ? "the model's" : `${deployment.contextTokens} tokens`],
      [
        "parallel",
        deployment.parallelSequences === 0 ? "the agent's default" : `${deployment.parallelSequences} sequences`,
      ],
      ["node labels", pairs(deployment.nodeLabels)],
      ["engine options", pairs(deployment.engineOptions)],
      ["routing", routingWords(deployment.routing)],
      ["trouble", trouble(deployment)],
    ]);
    if (deployment.current.length === 0) return text;
    const replicas = table(
      deployment.current,
      [
        { title: "replica", cell: (r) => r.replicaId },
        { title: "node", cell: (r) => r.nodeName },
        { title: "state", cell: state },
        { title: "running", right: true, cell: (r) => String(r.status?.load?.running ?? 0) },
        { title: "queued", right: true, cell: (r) => String(r.status?.load?.queued ?? 0) },
        { title: "restarts", right: true, cell: (r) => String(r.status?.engineRestarts ?? 0) },
        { title: "message", cell: (r) => r.status?.message || "-" },
      ],
      "",
    );
    return `${text}\n${replicas}`;
  });
}

function isReady(replica: Replica): boolean {
  return replica.status?.state === ReplicaState.READY;
}

/** With how far the next one is, while it comes. */
function ready({ current, replicas }: Deployment): string {
  const count = `${current.filter(isReady).length}/${replicas}`;
  const coming = current.filter(isComing).sort((a, b) => howFar(b) - howFar(a))[0];
  return coming ? `${count}, ${state(coming)}` : count;
}

function isComing({ status }: Replica): boolean {
  return status?.state === ReplicaState.FETCHING || status?.state === ReplicaState.LOADING;
}

/** Loading comes behind fetching. */
function howFar({ status }: Replica): number {
  return (status?.state ?? 0) + (status?.progress ?? 0);
}

function state(replica: Replica): string {
  const status = replica.status;
  if (!status) return "absent";
  const word = replicaStates.word(status.state);
  return isComing(replica) ? `${word} ${Math.round(status.progress * 100)} %` : word;
}

function trouble(deployment: Deployment): string {
  const failed = deployment.current.find((replica) => replica.status?.state === ReplicaState.FAILED);
  if (failed) return `${failed.nodeName}: ${failed.status?.message || "failed"}`;
  return deployment.unplacedReason || "-";
}

function pairs(map: Readonly<Record<string, string>>): string {
  return (
    Object.entries(map)
      .map(([key, value]) => `${key}=${value}`)
      .join(", ") || "-"
  );
}

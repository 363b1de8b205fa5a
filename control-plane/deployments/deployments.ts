import { create, fromBinary } from "@bufbuild/protobuf";
import {
  type Deployment,
  DeploymentSchema,
  type Replica,
  ReplicaSchema,
} from "#gen/helixmesh/control/v1/control_pb.ts";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { ReplicaStatusSchema } from "#gen/helixmesh/node/v1/node_pb.ts";
import { EngineKind, ReplicaState } from "#gen/helixmesh/type/v1/type_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { invalid, quote } from "../checks/field.ts";
import type { Page } from "../checks/page.ts";
import type { Sql, Transaction } from "../store/database.ts";
import type { WantedDeployment } from "./check-deployment.ts";
import { type StoredRouting, checkFallbacks, readRouting, routingColumn } from "./routing.ts";

interface DeploymentRow {
  readonly name: string;
  readonly model: string;
  readonly engine: EngineKind;
  readonly replicas: number;
  readonly nodeLabels: Record<string, string>;
  readonly maxPerNode: number;
  readonly contextTokens: number;
  readonly parallelSequences: number;
  readonly engineOptions: Record<string, string>;
  readonly routing: StoredRouting;
  readonly unplacedReason: string;
}

interface ReplicaRow {
  readonly id: string;
  readonly deployment: string;
  readonly nodeId: string;
  readonly nodeName: string;
  readonly status: Buffer;
}

/** Creates or changes a deployment; placement follows from the change's notification. */
export async function putDeployment(sql: Sql, wanted: WantedDeployment): Promise<Deployment> {
  await sql.begin(async (transaction) => {
    const [model] = await transaction<{ source: string }[]>`
      SELECT v.source FROM models m
      JOIN LATERAL (SELECT source FROM model_versions WHERE model = m.name ORDER BY ordinal DESC LIMIT 1) v ON true
      WHERE m.name = ${wanted.model} FOR SHARE OF m`;
    if (!model) {
      const [alias] = await transaction<
        { model: string }[]
      >`SELECT model FROM alias_models WHERE name = ${wanted.model}`;
      const advice = alias ? `; it is an alias of ${quote(alias.model)}: deploy that` : "; create it first";
      throw new MeshError(
        Reason.NOT_FOUND,
        `deployment.model ${quote(wanted.model)} is not a registered model${advice}`,
        {
          field: "deployment.model",
        },
      );
    }
    if (model.source === "" && wanted.engine !== EngineKind.SIM) {
      throw invalid("deployment.engine", `needs weights, and model ${quote(wanted.model)} has no source`);
    }
    await checkFallbacks(transaction, wanted.name, wanted.model, wanted.routing?.fallbackModels ?? []);
    await transaction`
      INSERT INTO deployments AS d (name, model, engine, replicas, node_labels, max_per_node, context_tokens,
                                    parallel_sequences, engine_options, routing, created_at)
      VALUES (${wanted.name}, ${wanted.model}, ${wanted.engine}, ${wanted.replicas},
              ${transaction.json(wanted.nodeLabels)}, ${wanted.maxPerNode}, ${wanted.contextTokens},
              ${wanted.parallelSequences}, ${transaction.json(wanted.engineOptions)},
              ${routingColumn(transaction, wanted.routing)}, now())
      ON CONFLICT (name) DO UPDATE SET
        model = excluded.model, engine = excluded.engine, replicas = excluded.replicas,
        node_labels = excluded.node_labels, max_per_node = excluded.max_per_node,
        context_tokens = excluded.context_tokens, parallel_sequences = excluded.parallel_sequences,
        engine_options = excluded.engine_options, routing = excluded.routing,
        generation = d.generation + CASE WHEN
          (d.model, d.engine, d.node_labels, d.max_per_node, d.context_tokens, d.parallel_sequences, d.engine_options)
          IS DISTINCT FROM
          (excluded.model, excluded.engine, excluded.node_labels, excluded.max_per_node, excluded.context_tokens,
           excluded.parallel_sequences, excluded.engine_options) THEN 1 ELSE 0 END`;
  });
  return getDeployment(sql, wanted.name);
}

export async function getDeployment(sql: Sql, name: string): Promise<Deployment> {
  const [deployment] = await readDeployments(
    sql,
    (transaction) => transaction<DeploymentRow[]>`SELECT * FROM deployments WHERE name = ${name}`,
  );
  if (!deployment) throw deploymentNotFound(name);
  return deployment;
}

/** One more than the page's limit, if there are. */
export async function listDeployments(sql: Sql, page: Page): Promise<Deployment[]> {
  return readDeployments(
    sql,
    (transaction) => transaction<DeploymentRow[]>`
      SELECT * FROM deployments WHERE name > ${page.after} ORDER BY name LIMIT ${page.limit + 1}`,
  );
}

/** Its replicas drain from now on and are forgotten when their agents report them gone. */
export async function deleteDeployment(sql: Sql, name: string): Promise<void> {
  const deleted = await sql`DELETE FROM deployments WHERE name = ${name} RETURNING name`;
  if (deleted.length === 0) throw deploymentNotFound(name);
}

/** Deployments and replicas as of one moment: a reason why nothing is placed must not stand beside what is. */
function readDeployments(
  sql: Sql,
  select: (transaction: Transaction) => PromiseLike<readonly DeploymentRow[]>,
): Promise<Deployment[]> {
  return sql.begin("ISOLATION LEVEL REPEATABLE READ READ ONLY", async (transaction) =>
    withReplicas(transaction, await select(transaction)),
  );
}

async function withReplicas(sql: Transaction, rows: readonly DeploymentRow[]): Promise<Deployment[]> {
  const names = rows.map((row) => row.name);
  const replicas = await sql<ReplicaRow[]>`
    SELECT r.id, r.deployment, r.node_id, n.name AS node_name, r.status
    FROM replicas r JOIN nodes n ON n.id = r.node_id
    WHERE r.deployment = ANY(${names}::text[]) ORDER BY r.created_at, r.id`;
  const byDeployment = Map.groupBy(replicas, (replica) => replica.deployment);
  return rows.map((row) => {
    const routing = readRouting(row.routing);
    return create(DeploymentSchema, {
      name: row.name,
      model: row.model,
      engine: row.engine,
      replicas: row.replicas,
      nodeLabels: row.nodeLabels,
      maxReplicasPerNode: row.maxPerNode,
      contextTokens: row.contextTokens,
      parallelSequences: row.parallelSequences,
      engineOptions: row.engineOptions,
      current: (byDeployment.get(row.name) ?? []).map(toReplica),
      unplacedReason: row.unplacedReason,
      ...(routing && { routing }),
    });
  });
}

function toReplica(row: ReplicaRow): Replica {
  return create(ReplicaSchema, {
    replicaId: row.id,
    nodeId: row.nodeId,
    nodeName: row.nodeName,
    status:
      row.status.length > 0
        ? fromBinary(ReplicaStatusSchema, row.status)
        : create(ReplicaStatusSchema, { replicaId: row.id, state: ReplicaState.ABSENT }),
  });
}

function deploymentNotFound(name: string): MeshError {
  return new MeshError(Reason.NOT_FOUND, `no deployment ${quote(name)}`, { field: "name" });
}

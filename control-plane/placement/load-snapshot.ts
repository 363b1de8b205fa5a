import { type EngineKind, ReplicaState } from "#gen/helixmesh/type/v1/type_pb.ts";
import { type ReplicaSpec, currentSpec, specKey } from "../deployments/spec.ts";
import type { Transaction } from "../store/database.ts";
import type { PlacementSnapshot } from "./snapshot.ts";

export interface LoadedSnapshot extends PlacementSnapshot {
  /** What to freeze into a new replica, by deployment. */
  readonly specs: ReadonlyMap<string, { readonly spec: ReplicaSpec; readonly generation: number }>;
  /** What stands in the database, by deployment; only differences are written. */
  readonly unplacedReasons: ReadonlyMap<string, string>;
}

interface NodeRow {
  readonly id: string;
  readonly name: string;
  readonly online: boolean;
  readonly lost: boolean;
  readonly cordoned: boolean;
  readonly draining: boolean;
  readonly labels: Record<string, string>;
  readonly engines: EngineKind[];
}

interface DeploymentRow extends ReplicaSpec {
  readonly name: string;
  readonly replicas: number;
  readonly nodeLabels: Record<string, string>;
  readonly maxPerNode: number;
  readonly generation: number;
  readonly unplacedReason: string;
}

interface ReplicaRow {
  readonly id: string;
  readonly deployment: string;
  readonly nodeId: string;
  readonly spec: ReplicaSpec;
  readonly state: number;
  readonly draining: boolean;
  readonly createdAt: number;
}

/** Reads what placement decides over. Between its statements something may change: the next run sees to that. */
export async function loadSnapshot(transaction: Transaction, offlineGraceMs: number): Promise<LoadedSnapshot> {
  const nodes = await transaction<NodeRow[]>`
    SELECT id, name, online, cordoned, draining, labels, engines,
           NOT online AND lease_expires_at + ${offlineGraceMs} * interval '1 millisecond' < now() AS lost
    FROM nodes`;
  const deployments = await transaction<DeploymentRow[]>`
    SELECT d.name, d.model, v.source, v.sha256, d.engine, d.context_tokens, d.parallel_sequences, d.engine_options,
           d.replicas, d.node_labels, d.max_per_node, d.generation, d.unplaced_reason
    FROM deployments d
    JOIN LATERAL (SELECT source, sha256 FROM model_versions WHERE model = d.model ORDER BY ordinal DESC LIMIT 1) v
      ON true`;
  const replicas = await transaction<ReplicaRow[]>`
    SELECT id, deployment, node_id, spec, state, draining, created_at FROM replicas`;

  const leaving = new Set(nodes.filter((row) => row.draining).map((row) => row.id));
  const specs = new Map(deployments.map((row) => [row.name, { spec: currentSpec(row), generation: row.generation }]));
  return {
    specs,
    unplacedReasons: new Map(deployments.map((row) => [row.name, row.unplacedReason])),
    nodes: nodes.map((row) => ({
      id: row.id,
      name: row.name,
      presence: row.online ? "online" : row.lost ? "lost" : "away",
      // An agent that drains is about to go: what it has stays, but serves no more, and nothing new comes.
      cordoned: row.cordoned || row.draining,
      labels: row.labels,
      engines: row.engines,
    })),
    deployments: deployments.map((row) => ({
      name: row.name,
      replicas: row.replicas,
      spec: specKey(currentSpec(row)),
      engine: row.engine,
      nodeLabels: row.nodeLabels,
      maxReplicasPerNode: row.maxPerNode,
    })),
    replicas: replicas.map((row) => ({
      id: row.id,
      deployment: row.deployment,
      nodeId: row.nodeId,
      spec: specKey(row.spec),
      createdAtMs: row.createdAt,
      draining: row.draining,
      gone: row.draining && row.state === ReplicaState.ABSENT,
      ready: !row.draining && row.state === ReplicaState.READY && !leaving.has(row.nodeId),
    })),
  };
}

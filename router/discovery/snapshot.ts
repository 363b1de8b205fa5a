import { create } from "@bufbuild/protobuf";
import {
  type Alias,
  type Delta,
  type Deployment,
  type Key,
  type Model,
  type Node,
  type Replica,
  type Snapshot,
  SnapshotSchema,
} from "#gen/helixmesh/discovery/v1/discovery_pb.ts";

/** A discovery snapshot with its indexes. Never changed in place: a call that holds one sees one consistent state. */
export interface IndexedSnapshot {
  readonly version: bigint;
  readonly models: ReadonlyMap<string, Model>;
  readonly aliases: ReadonlyMap<string, Alias>;
  readonly deployments: ReadonlyMap<string, Deployment>;
  readonly nodes: ReadonlyMap<string, Node>;
  readonly replicas: ReadonlyMap<string, Replica>;
  readonly keys: ReadonlyMap<string, Key>;
  /** By model name, in order of deployment name. */
  readonly deploymentsOfModel: ReadonlyMap<string, readonly Deployment[]>;
  /** By deployment name, in order of replica id. */
  readonly replicasOfDeployment: ReadonlyMap<string, readonly Replica[]>;
}

type Tables = Omit<IndexedSnapshot, "deploymentsOfModel" | "replicasOfDeployment">;

export const emptySnapshot: IndexedSnapshot = indexSnapshot(create(SnapshotSchema));

export function indexSnapshot(message: Snapshot): IndexedSnapshot {
  return withIndexes({
    version: message.version,
    models: new Map(message.models.map((model) => [model.name, model])),
    aliases: new Map(message.aliases.map((alias) => [alias.name, alias])),
    deployments: new Map(message.deployments.map((deployment) => [deployment.name, deployment])),
    nodes: new Map(message.nodes.map((node) => [node.nodeId, node])),
    replicas: new Map(message.replicas.map((replica) => [replica.replicaId, replica])),
    keys: new Map(message.keys.map((key) => [key.keyId, key])),
  });
}

/** The snapshot after `delta`. An empty delta (a sign of life) gives the same object back, so that nothing reacts. */
export function applyDelta(snapshot: IndexedSnapshot, delta: Delta): IndexedSnapshot {
  if (isEmpty(delta)) return delta.version === snapshot.version ? snapshot : { ...snapshot, version: delta.version };
  const upserts = delta.upserts ?? create(SnapshotSchema);
  return withIndexes({
    version: delta.version,
    models: changed(snapshot.models, upserts.models, (model) => model.name, delta.removedModels),
    aliases: changed(snapshot.aliases, upserts.aliases, (alias) => alias.name, delta.removedAliases),
    deployments: changed(snapshot.deployments, upserts.deployments, (item) => item.name, delta.removedDeployments),
    nodes: changed(snapshot.nodes, upserts.nodes, (node) => node.nodeId, delta.removedNodes),
    replicas: changed(snapshot.replicas, upserts.replicas, (replica) => replica.replicaId, delta.removedReplicas),
    keys: changed(snapshot.keys, upserts.keys, (key) => key.keyId, delta.removedKeys),
  });
}

/** The message that `indexSnapshot` turns into this snapshot again; for the file. */
export function snapshotMessage(snapshot: IndexedSnapshot): Snapshot {
  return create(SnapshotSchema, {
    version: snapshot.version,
    models: [...snapshot.models.values()],
    aliases: [...snapshot.aliases.values()],
    deployments: [...snapshot.deployments.values()],
    nodes: [...snapshot.nodes.values()],
    replicas: [...snapshot.replicas.values()],
    keys: [...snapshot.keys.values()],
  });
}

function isEmpty(delta: Delta): boolean {
  const upserts = delta.upserts;
  const removed =
    delta.removedModels.length +
    delta.removedAliases.length +
    delta.removedDeployments.length +
    delta.removedNodes.length +
    delta.removedReplicas.length +
    delta.removedKeys.length;
  const added = upserts
    ? upserts.models.length +
      upserts.aliases.length +
      upserts.deployments.length +
      upserts.nodes.length +
      upserts.replicas.length +
      upserts.keys.length
    : 0;
  return removed + added === 0;
}

function changed<T>(
  table: ReadonlyMap<string, T>,
  upserts: readonly T[],
  nameOf: (item: T) => string,
  removed: readonly string[],
): ReadonlyMap<string, T> {
  if (upserts.length === 0 && removed.length === 0) return table;
  const next = new Map(table);
  for (const name of removed) next.delete(name);
  for (const item of upserts) next.set(nameOf(item), item);
  return next;
}

function withIndexes(tables: Tables): IndexedSnapshot {
  const deployments = [...tables.deployments.values()].sort((a, b) => compare(a.name, b.name));
  const replicas = [...tables.replicas.values()].sort((a, b) => compare(a.replicaId, b.replicaId));
  return {
    ...tables,
    deploymentsOfModel: Map.groupBy(deployments, (deployment) => deployment.model),
    replicasOfDeployment: Map.groupBy(replicas, (replica) => replica.deployment),
  };
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

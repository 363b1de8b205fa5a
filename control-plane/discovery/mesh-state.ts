import { type MessageShape, type DescMessage, create, toBinary } from "@bufbuild/protobuf";
import {
  type Alias,
  AliasSchema,
  type Delta,
  DeltaSchema,
  type Deployment,
  DeploymentSchema,
  type Key,
  KeySchema,
  type Model,
  ModelSchema,
  type Node,
  NodeSchema,
  type Replica,
  ReplicaSchema,
  type Snapshot,
  SnapshotSchema,
} from "#gen/helixmesh/discovery/v1/discovery_pb.ts";

/** All that routers are told, in lists without an order. Immutable. */
export interface MeshState {
  readonly models: readonly Model[];
  readonly aliases: readonly Alias[];
  readonly deployments: readonly Deployment[];
  readonly nodes: readonly Node[];
  readonly replicas: readonly Replica[];
  readonly keys: readonly Key[];
}

export const emptyMeshState: MeshState = {
  models: [],
  aliases: [],
  deployments: [],
  nodes: [],
  replicas: [],
  keys: [],
};

export function toSnapshot(state: MeshState, version: bigint): Snapshot {
  return create(SnapshotSchema, { version, ...copyLists(state) });
}

/** What leads from one state to the other; undefined when they are equal. */
export function diff(before: MeshState, after: MeshState, version: bigint): Delta | undefined {
  const models = diffList(ModelSchema, before.models, after.models, (model) => model.name);
  const aliases = diffList(AliasSchema, before.aliases, after.aliases, (alias) => alias.name);
  const deployments = diffList(DeploymentSchema, before.deployments, after.deployments, (one) => one.name);
  const nodes = diffList(NodeSchema, before.nodes, after.nodes, (node) => node.nodeId);
  const replicas = diffList(ReplicaSchema, before.replicas, after.replicas, (replica) => replica.replicaId);
  const keys = diffList(KeySchema, before.keys, after.keys, (key) => key.keyId);
  const all = [models, aliases, deployments, nodes, replicas, keys];
  if (all.every((list) => list.upserts.length === 0 && list.removed.length === 0)) return undefined;
  return create(DeltaSchema, {
    version,
    upserts: create(SnapshotSchema, {
      version,
      models: models.upserts,
      aliases: aliases.upserts,
      deployments: deployments.upserts,
      nodes: nodes.upserts,
      replicas: replicas.upserts,
      keys: keys.upserts,
    }),
    removedModels: models.removed,
    removedAliases: aliases.removed,
    removedDeployments: deployments.removed,
    removedNodes: nodes.removed,
    removedReplicas: replicas.removed,
    removedKeys: keys.removed,
  });
}

/** What a router does with a delta, for tests and for anything that follows a watch in this process. */
export function applyDelta(state: MeshState, delta: Delta): MeshState {
  const { upserts } = delta;
  return {
    models: applyList(state.models, upserts?.models, delta.removedModels, (model) => model.name),
    aliases: applyList(state.aliases, upserts?.aliases, delta.removedAliases, (alias) => alias.name),
    deployments: applyList(state.deployments, upserts?.deployments, delta.removedDeployments, (one) => one.name),
    nodes: applyList(state.nodes, upserts?.nodes, delta.removedNodes, (node) => node.nodeId),
    replicas: applyList(state.replicas, upserts?.replicas, delta.removedReplicas, (replica) => replica.replicaId),
    keys: applyList(state.keys, upserts?.keys, delta.removedKeys, (key) => key.keyId),
  };
}

function copyLists(state: MeshState): { [K in keyof MeshState]: MeshState[K][number][] } {
  return {
    models: [...state.models],
    aliases: [...state.aliases],
    deployments: [...state.deployments],
    nodes: [...state.nodes],
    replicas: [...state.replicas],
    keys: [...state.keys],
  };
}

function diffList<D extends DescMessage>(
  schema: D,
  before: readonly MessageShape<D>[],
  after: readonly MessageShape<D>[],
  idOf: (message: MessageShape<D>) => string,
): { upserts: MessageShape<D>[]; removed: string[] } {
  const known = new Map(before.map((message) => [idOf(message), message]));
  const upserts = after.filter((message) => {
    const old = known.get(idOf(message));
    known.delete(idOf(message));
    return !old || !sameBytes(toBinary(schema, old), toBinary(schema, message));
  });
  return { upserts, removed: [...known.keys()] };
}

function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0;
}

function applyList<T>(
  list: readonly T[],
  upserts: readonly T[] = [],
  removed: readonly string[],
  idOf: (item: T) => string,
): T[] {
  const byId = new Map(list.map((item) => [idOf(item), item]));
  for (const id of removed) byId.delete(id);
  for (const item of upserts) byId.set(idOf(item), item);
  return [...byId.values()];
}

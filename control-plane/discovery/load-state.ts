import { create } from "@bufbuild/protobuf";
import {
  AliasSchema,
  DeploymentSchema,
  KeySchema,
  ModelSchema,
  NodeSchema,
  ReplicaSchema,
} from "#gen/helixmesh/discovery/v1/discovery_pb.ts";
import { WatchDesiredStateResponseSchema } from "#gen/helixmesh/node/v1/node_pb.ts";
import { KeyRole, ReplicaState } from "#gen/helixmesh/type/v1/type_pb.ts";
import type { Clock } from "#kernel/clock.ts";
import { type StoredRouting, readRouting } from "../deployments/routing.ts";
import { type ReplicaSpec, toDesiredReplica } from "../deployments/spec.ts";
import { usableKeys } from "../keys/keys.ts";
import { linkToken } from "../nodes/link-token.ts";
import type { Sql } from "../store/database.ts";
import type { MeshState } from "./mesh-state.ts";
import type { DesiredStates } from "./node-watch.ts";

export interface LoadedState {
  readonly mesh: MeshState;
  readonly desired: DesiredStates;
  /** The database's change version; it grows over restarts. */
  readonly version: bigint;
  /** For metrics; replicas by the name of their state, in lower case. */
  readonly counts: {
    readonly nodes: { readonly online: number; readonly offline: number };
    readonly replicas: Readonly<Record<string, number>>;
  };
}

interface NodeRow {
  readonly id: string;
  readonly name: string;
  readonly linkAddress: string;
  readonly zone: string;
  readonly online: boolean;
}

interface ReplicaRow {
  readonly id: string;
  readonly deployment: string;
  readonly nodeId: string;
  readonly spec: ReplicaSpec;
  readonly state: ReplicaState;
  readonly draining: boolean;
}

/** Reads all that is watched, from one snapshot of the database. */
export function loadState(sql: Sql, clock: Clock, linkSecret: string): Promise<LoadedState> {
  return sql.begin("ISOLATION LEVEL REPEATABLE READ READ ONLY", async (transaction) => {
    const deployments = await transaction<{ name: string; model: string; routing: StoredRouting }[]>`
      SELECT name, model, routing FROM deployments ORDER BY name`;
    const models = await transaction<{ name: string; createdAt: number }[]>`
      SELECT name, created_at FROM models WHERE name IN (SELECT model FROM deployments) ORDER BY name`;
    const aliases = await transaction<{ name: string; model: string }[]>`
      SELECT name, model FROM alias_models WHERE model IN (SELECT model FROM deployments) ORDER BY name`;
    const nodes = await transaction<NodeRow[]>`
      SELECT id, name, link_address, zone, online FROM nodes ORDER BY id`;
    const replicas = await transaction<ReplicaRow[]>`
      SELECT id, deployment, node_id, spec, state, draining FROM replicas ORDER BY id`;
    const keys = await usableKeys(transaction, clock, KeyRole.INFERENCE);
    const [change] = await transaction<{ lastValue: bigint }[]>`SELECT last_value FROM change_version`;

    const online = new Set(nodes.filter((node) => node.online).map((node) => node.id));
    const wanted = replicas.filter((replica) => !replica.draining);
    const byNode = Map.groupBy(wanted, (replica) => replica.nodeId);
    const desired = new Map(
      nodes.map((node) => [
        node.id,
        create(WatchDesiredStateResponseSchema, {
          replicas: (byNode.get(node.id) ?? []).map((replica) =>
            toDesiredReplica(replica.id, replica.deployment, replica.spec),
          ),
        }),
      ]),
    );
    const mesh: MeshState = {
      models: models.map(({ name, createdAt }) =>
        create(ModelSchema, { name, created: BigInt(Math.floor(createdAt / 1_000)) }),
      ),
      aliases: aliases.map((alias) => create(AliasSchema, { name: alias.name, model: alias.model })),
      deployments: deployments.map((row) => {
        const routing = readRouting(row.routing);
        return create(DeploymentSchema, { name: row.name, model: row.model, ...(routing && { routing }) });
      }),
      nodes: nodes
        .filter((node) => node.online)
        .map(({ id, name, linkAddress, zone }) =>
          create(NodeSchema, { nodeId: id, name, linkAddress, zone, linkToken: linkToken(linkSecret, id) }),
        ),
      replicas: wanted
        .filter((replica) => online.has(replica.nodeId))
        .map(({ id, deployment, nodeId }) => create(ReplicaSchema, { replicaId: id, deployment, nodeId })),
      keys: keys.map((key) =>
        create(KeySchema, {
          keyId: key.id,
          secretSha256: new Uint8Array(key.secretSha256),
          role: key.role,
          projectId: key.projectId,
          expiresAtMs: BigInt(key.expiresAtMs ?? 0),
        }),
      ),
    };
    return {
      mesh,
      desired,
      version: change?.lastValue ?? 0n,
      counts: {
        nodes: { online: online.size, offline: nodes.length - online.size },
        replicas: countStates(replicas),
      },
    };
  });
}

function countStates(replicas: readonly ReplicaRow[]): Record<string, number> {
  const states = Object.entries(ReplicaState).filter(([, state]) => state !== ReplicaState.UNSPECIFIED);
  return Object.fromEntries(
    states.map(([name, state]) => [name.toLowerCase(), replicas.filter((replica) => replica.state === state).length]),
  );
}

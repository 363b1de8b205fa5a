import type { EngineKind } from "#gen/helixmesh/type/v1/type_pb.ts";

/** What placement sees. Order of the lists does not matter. */
export interface PlacementSnapshot {
  readonly nodes: readonly PlacementNode[];
  readonly deployments: readonly PlacementDeployment[];
  readonly replicas: readonly PlacedReplica[];
}

export interface PlacementNode {
  readonly id: string;
  /** Unique; ties are broken by it. */
  readonly name: string;
  /** `away`: offline, but for less than the grace time. `lost`: for longer. */
  readonly presence: "online" | "away" | "lost";
  readonly cordoned: boolean;
  readonly labels: Readonly<Record<string, string>>;
  readonly engines: readonly EngineKind[];
}

export interface PlacementDeployment {
  readonly name: string;
  /** Copies wanted, 0 or more. */
  readonly replicas: number;
  /** Equal for replicas that may stand in for each other; any change of what runs changes it. */
  readonly spec: string;
  readonly engine: EngineKind;
  /** Labels that a node must carry, with exactly these values. */
  readonly nodeLabels: Readonly<Record<string, string>>;
  /** 1 or more. */
  readonly maxReplicasPerNode: number;
}

export interface PlacedReplica {
  readonly id: string;
  readonly deployment: string;
  readonly nodeId: string;
  readonly spec: string;
  /** Unix milliseconds. */
  readonly createdAtMs: number;
  /** The agent was told to end it. */
  readonly draining: boolean;
  /** The agent reported since that it no longer has it. */
  readonly gone: boolean;
  /** The last report said that it takes calls. */
  readonly ready: boolean;
}

/** Why a node takes no replica of a deployment, its own count of them aside; undefined when it may. */
export function unfit(
  deployment: PlacementDeployment,
  node: PlacementNode,
): "offline" | "cordoned" | "engine" | "labels" | undefined {
  if (node.presence !== "online") return "offline";
  if (node.cordoned) return "cordoned";
  return misfit(deployment, node);
}

/** What of a node that is there rules a deployment out, for replicas that stand on it already as well. */
export function misfit(deployment: PlacementDeployment, node: PlacementNode): "engine" | "labels" | undefined {
  if (!node.engines.includes(deployment.engine)) return "engine";
  const matches = Object.entries(deployment.nodeLabels).every(([key, value]) => node.labels[key] === value);
  return matches ? undefined : "labels";
}

import type { DesiredReplica } from "#gen/helixmesh/node/v1/node_pb.ts";

export type ReplicaAction =
  | { readonly kind: "add"; readonly desired: DesiredReplica }
  | { readonly kind: "drain"; readonly replicaId: string };

/** A replica that exists on the node. */
export interface ActualReplica {
  readonly replicaId: string;
  readonly draining: boolean;
}

/**
 * What must be done so that the node runs what is desired. Specs never change under one id, so an id that exists needs
 * nothing, and one that still drains is added again only when it is gone.
 */
export function reconcile(desired: readonly DesiredReplica[], actual: readonly ActualReplica[]): ReplicaAction[] {
  const wanted = new Set(desired.map((replica) => replica.replicaId));
  const existing = new Set(actual.map((replica) => replica.replicaId));
  const actions: ReplicaAction[] = [];
  // Drains first: what they free, the new ones may need.
  for (const { replicaId, draining } of actual) {
    if (!wanted.has(replicaId) && !draining) actions.push({ kind: "drain", replicaId });
  }
  for (const replica of desired) {
    if (existing.has(replica.replicaId)) continue;
    existing.add(replica.replicaId);
    actions.push({ kind: "add", desired: replica });
  }
  return actions;
}

import { explainUnplaced } from "./explain-unplaced.ts";
import {
  type PlacedReplica,
  type PlacementDeployment,
  type PlacementNode,
  type PlacementSnapshot,
  misfit,
  unfit,
} from "./snapshot.ts";

/**
 * Placement decides which node runs which replica. It is a pure function over one snapshot: no clock, no chance, and
 * the same snapshot always gives the same plan.
 *
 * A replica is *current* when it was made from its deployment's present spec and stands where the deployment's
 * constraints allow, *stale* otherwise, and *lost* when its node has been offline for longer than the grace time. Then:
 *
 * - Missing current replicas are created on eligible nodes, at once; nothing waits for a drain.
 * - Stale ones stay until as many ready replicas as wanted would remain without them: new before old.
 * - Current ones above the wanted number are drained: those that serve nothing first, then from the fullest node, then
 *   the newest.
 * - Lost ones stop counting, so a replacement appears elsewhere; the lost one itself is forgotten when the replacement
 *   is ready. A node that returns before that just carries on with what it has.
 * - `maxReplicasPerNode` counts replicas of the same spec. During a change of spec a node may hold the old beside the
 *   new, for otherwise a mesh of one node could never change without an outage.
 * - Nothing is moved for the sake of balance alone: a reload costs more than a skew.
 */
export function place(snapshot: PlacementSnapshot): PlacementPlan {
  const plan: { create: PlannedReplica[]; drain: string[]; remove: string[]; unplaced: Unplaced[] } = {
    create: [],
    drain: [],
    remove: [],
    unplaced: [],
  };
  const nodes = new Map(snapshot.nodes.map((node) => [node.id, node]));
  const standing: PlacedReplica[] = [];
  for (const replica of [...snapshot.replicas].sort(oldestFirst)) {
    const node = nodes.get(replica.nodeId);
    if (!node || (replica.draining && (replica.gone || node.presence === "lost"))) plan.remove.push(replica.id);
    else standing.push(replica);
  }

  const fullness = new Map<string, number>();
  for (const replica of standing) fullness.set(replica.nodeId, (fullness.get(replica.nodeId) ?? 0) + 1);

  const byDeployment = Map.groupBy(standing, (replica) => replica.deployment);
  const deployments = [...snapshot.deployments].sort((a, b) => compareText(a.name, b.name));
  const known = new Set(deployments.map((deployment) => deployment.name));
  for (const [name, replicas] of byDeployment) {
    if (known.has(name)) continue;
    for (const replica of replicas) {
      if (nodes.get(replica.nodeId)?.presence === "lost") plan.remove.push(replica.id);
      else if (!replica.draining) plan.drain.push(replica.id);
    }
  }

  for (const deployment of deployments) {
    const replicas = byDeployment.get(deployment.name) ?? [];
    const { current, stale, lost } = classify(deployment, replicas, nodes);

    const missing = deployment.replicas - current.length;
    if (missing > 0) {
      const created = spread(deployment, missing, snapshot.nodes, replicas, fullness);
      plan.create.push(...created);
      if (created.length < missing) {
        plan.unplaced.push({
          deployment: deployment.name,
          missing: missing - created.length,
          reason: explainUnplaced(deployment, missing - created.length, snapshot.nodes),
        });
      }
    }

    const kept = scaleDown(deployment, current, nodes, fullness, plan.drain);
    const readyCurrent = kept.filter((replica) => serves(replica, nodes)).length;
    let spare = readyCurrent + stale.filter((replica) => replica.ready).length - deployment.replicas;
    for (const replica of stale) {
      if (replica.ready && spare <= 0) continue;
      if (replica.ready) spare -= 1;
      plan.drain.push(replica.id);
    }
    if (readyCurrent >= deployment.replicas) plan.remove.push(...lost.map((replica) => replica.id));
  }
  return plan;
}

export interface PlacementPlan {
  readonly create: readonly PlannedReplica[];
  /** Ids of replicas whose agent should finish their calls and end them. */
  readonly drain: readonly string[];
  /** Ids of replicas to forget. */
  readonly remove: readonly string[];
  readonly unplaced: readonly Unplaced[];
}

export interface PlannedReplica {
  readonly deployment: string;
  readonly nodeId: string;
}

export interface Unplaced {
  readonly deployment: string;
  readonly missing: number;
  /** For an operator: what stands in the way, node by node in sum, and what to do. */
  readonly reason: string;
}

type Nodes = ReadonlyMap<string, PlacementNode>;

/** Splits a deployment's replicas, draining ones left out. */
function classify(deployment: PlacementDeployment, replicas: readonly PlacedReplica[], nodes: Nodes) {
  const current: PlacedReplica[] = [];
  const stale: PlacedReplica[] = [];
  const lost: PlacedReplica[] = [];
  const perNode = new Map<string, number>();
  // Where a node holds more than it may (the limit was lowered), those that serve keep their place.
  const servingFirst = [...replicas].sort((a, b) => Number(b.ready) - Number(a.ready) || oldestFirst(a, b));
  for (const replica of servingFirst) {
    const node = nodes.get(replica.nodeId);
    if (!node || replica.draining) continue;
    const before = perNode.get(node.id) ?? 0;
    if (node.presence === "lost") lost.push(replica);
    else if (replica.spec !== deployment.spec || misfit(deployment, node)) stale.push(replica);
    else if (before >= deployment.maxReplicasPerNode) stale.push(replica);
    else {
      perNode.set(node.id, before + 1);
      current.push(replica);
    }
  }
  // Those that serve least are the first to be spared.
  const leastServingFirst = stale.sort(
    (a, b) => Number(serves(a, nodes)) - Number(serves(b, nodes)) || oldestFirst(a, b),
  );
  return { current, stale: leastServingFirst, lost };
}

/** Picks nodes one by one: fewest of this deployment, then fewest of all, then by name. */
function spread(
  deployment: PlacementDeployment,
  missing: number,
  nodes: readonly PlacementNode[],
  replicas: readonly PlacedReplica[],
  fullness: Map<string, number>,
): PlannedReplica[] {
  const own = new Map<string, number>();
  // Draining ones count: until they are gone, they hold their memory.
  for (const replica of replicas) {
    if (replica.spec === deployment.spec) own.set(replica.nodeId, (own.get(replica.nodeId) ?? 0) + 1);
  }
  const eligible = nodes.filter((node) => !unfit(deployment, node));
  const created: PlannedReplica[] = [];
  while (created.length < missing) {
    let best: PlacementNode | undefined;
    for (const node of eligible) {
      if ((own.get(node.id) ?? 0) >= deployment.maxReplicasPerNode) continue;
      if (!best || compareRoom(node, best) < 0) best = node;
    }
    if (!best) break;
    created.push({ deployment: deployment.name, nodeId: best.id });
    own.set(best.id, (own.get(best.id) ?? 0) + 1);
    fullness.set(best.id, (fullness.get(best.id) ?? 0) + 1);
  }
  return created;

  function compareRoom(a: PlacementNode, b: PlacementNode): number {
    return (
      (own.get(a.id) ?? 0) - (own.get(b.id) ?? 0) ||
      (fullness.get(a.id) ?? 0) - (fullness.get(b.id) ?? 0) ||
      compareText(a.name, b.name)
    );
  }
}

/** Drains what is above the wanted number, one by one so that nodes empty evenly; returns the rest. */
function scaleDown(
  deployment: PlacementDeployment,
  current: readonly PlacedReplica[],
  nodes: Nodes,
  fullness: Map<string, number>,
  drain: string[],
): PlacedReplica[] {
  const kept = [...current];
  const own = new Map<string, number>();
  for (const replica of kept) own.set(replica.nodeId, (own.get(replica.nodeId) ?? 0) + 1);
  while (kept.length > deployment.replicas) {
    const victim = kept.reduce((a, b) => (comparePain(b, a) < 0 ? b : a));
    kept.splice(kept.indexOf(victim), 1);
    own.set(victim.nodeId, (own.get(victim.nodeId) ?? 0) - 1);
    fullness.set(victim.nodeId, (fullness.get(victim.nodeId) ?? 0) - 1);
    drain.push(victim.id);
  }
  return kept;

  function comparePain(a: PlacedReplica, b: PlacedReplica): number {
    return (
      Number(serves(a, nodes)) - Number(serves(b, nodes)) ||
      Number(a.ready) - Number(b.ready) ||
      (own.get(b.nodeId) ?? 0) - (own.get(a.nodeId) ?? 0) ||
      (fullness.get(b.nodeId) ?? 0) - (fullness.get(a.nodeId) ?? 0) ||
      oldestFirst(b, a)
    );
  }
}

/** Takes calls now; a ready replica on a node that went away may or may not. */
function serves(replica: PlacedReplica, nodes: Nodes): boolean {
  return replica.ready && nodes.get(replica.nodeId)?.presence === "online";
}

function oldestFirst(a: PlacedReplica, b: PlacedReplica): number {
  return a.createdAtMs - b.createdAtMs || compareText(a.id, b.id);
}

function compareText(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

import { EngineKind } from "#gen/helixmesh/type/v1/type_pb.ts";
import { type PlacementDeployment, type PlacementNode, unfit } from "./snapshot.ts";

/** One sentence for an operator: what stands in the way of the missing replicas, and what would help. */
export function explainUnplaced(
  deployment: PlacementDeployment,
  missing: number,
  nodes: readonly PlacementNode[],
): string {
  const wanted = `${missing} of ${deployment.replicas} ${deployment.replicas === 1 ? "replica" : "replicas"} not placed: `;
  if (nodes.length === 0) return `${wanted}no node is registered; start a node agent`;
  const counts = Map.groupBy(nodes, (node) => unfit(deployment, node) ?? "full");
  const labels = Object.entries(deployment.nodeLabels)
    .map(([key, value]) => `${key}=${value}`)
    .join(", ");
  const obstacles: string[] = [];
  const say = (kind: Parameters<typeof counts.get>[0], text: string): void => {
    const count = counts.get(kind)?.length ?? 0;
    if (count > 0) obstacles.push(`${count} ${count === 1 ? "node" : "nodes"} ${text}`);
  };
  say("full", `with max_replicas_per_node (${deployment.maxReplicasPerNode}) reached`);
  say("offline", "offline");
  say("cordoned", "cordoned");
  say("engine", `without engine ${engineName(deployment.engine)}`);
  say("labels", `without the labels ${labels}`);
  return `${wanted}${obstacles.join(", ")}; add nodes or loosen the deployment's constraints`;
}

/** The name that agents use; a number for an engine that only a newer version knows. */
function engineName(engine: EngineKind): string {
  const names: Partial<Record<number, string>> = { [EngineKind.LLAMA_CPP]: "llama.cpp", [EngineKind.SIM]: "sim" };
  return names[engine] ?? String(engine);
}

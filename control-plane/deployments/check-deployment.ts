import type { Deployment } from "#gen/helixmesh/control/v1/control_pb.ts";
import { type DeploymentRouting, EngineKind } from "#gen/helixmesh/type/v1/type_pb.ts";
import { checkMap, checkRange, checkText, invalid } from "../checks/field.ts";
import { checkModelName } from "../registry/check-model.ts";
import { checkRouting } from "./check-routing.ts";

/** What a caller may set of a deployment, checked, defaults filled in. */
export interface WantedDeployment {
  readonly name: string;
  readonly model: string;
  readonly engine: EngineKind;
  readonly replicas: number;
  readonly nodeLabels: Record<string, string>;
  readonly maxPerNode: number;
  readonly contextTokens: number;
  readonly parallelSequences: number;
  readonly engineOptions: Record<string, string>;
  /** Undefined: the defaults. */
  readonly routing: DeploymentRouting | undefined;
}

export function checkDeploymentName(field: string, name: string): string {
  return checkText(field, name, { min: 1, max: 63, pattern: /^[a-z0-9-]+$/, allowed: "a-z, 0-9 and hyphen" });
}

export function checkDeployment(deployment: Deployment): WantedDeployment {
  const { model, routing } = deployment;
  return {
    name: checkDeploymentName("deployment.name", deployment.name),
    model: checkModelName("deployment.model", model),
    engine: checkEngine("deployment.engine", deployment.engine),
    replicas: checkRange("deployment.replicas", deployment.replicas, 1_000, "replicas"),
    nodeLabels: checkLabels("deployment.node_labels", deployment.nodeLabels),
    maxPerNode: checkRange("deployment.max_replicas_per_node", deployment.maxReplicasPerNode, 1_000, "replicas") || 1,
    contextTokens: checkRange("deployment.context_tokens", deployment.contextTokens, 16_777_216, "tokens"),
    parallelSequences: checkRange("deployment.parallel_sequences", deployment.parallelSequences, 4_096, "sequences"),
    engineOptions: checkMap("deployment.engine_options", deployment.engineOptions, {
      entries: 64,
      keyLength: 64,
      valueLength: 1_024,
    }),
    routing: routing && checkRouting("deployment.routing", routing, model),
  };
}

function checkEngine(field: string, engine: EngineKind): EngineKind {
  const known: readonly number[] = Object.values(EngineKind);
  if (engine === EngineKind.UNSPECIFIED || !known.includes(engine)) {
    throw invalid(field, "must be ENGINE_KIND_LLAMA_CPP or ENGINE_KIND_SIM");
  }
  return engine;
}

export function checkLabels(field: string, labels: Readonly<Record<string, string>>): Record<string, string> {
  return checkMap(field, labels, { entries: 32, keyLength: 63, valueLength: 128 });
}

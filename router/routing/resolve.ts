import type { Deployment, Model } from "#gen/helixmesh/discovery/v1/discovery_pb.ts";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import type { IndexedSnapshot } from "../discovery/snapshot.ts";

export interface ResolvedModel {
  readonly model: Model;
  /** At least one. */
  readonly deployments: readonly Deployment[];
}

/**
 * Name or alias → model → what serves it. A model's own name wins over an alias that is spelled the same.
 * @throws MeshError MODEL_NOT_FOUND
 */
export function resolve(snapshot: IndexedSnapshot, name: string): ResolvedModel {
  const model = snapshot.models.get(name) ?? snapshot.models.get(snapshot.aliases.get(name)?.model ?? "");
  if (!model) {
    throw new MeshError(
      Reason.MODEL_NOT_FOUND,
      `model: no model or alias is named ${JSON.stringify(name)}; list the models to see which there are.`,
      { field: "model" },
    );
  }
  const deployments = snapshot.deploymentsOfModel.get(model.name);
  if (!deployments) {
    throw new MeshError(
      Reason.MODEL_NOT_FOUND,
      `model: ${JSON.stringify(model.name)} is registered, but no deployment serves it.`,
      { field: "model" },
    );
  }
  return { model, deployments };
}

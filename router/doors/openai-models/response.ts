import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import type { ModelInfo } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";

/** OpenAI API reference, "List models". JSON text. */
export function modelList(models: readonly ModelInfo[]): string {
  return JSON.stringify({ object: "list", data: models.map(modelObject) });
}

/** OpenAI API reference, "Retrieve model". JSON text. @throws MeshError MODEL_NOT_FOUND */
export function oneModel(models: readonly ModelInfo[], id: string): string {
  const model = models.find((one) => one.id === id);
  if (!model) {
    const shown = JSON.stringify(id.slice(0, 256));
    const message = `The model ${shown} does not exist or is not deployed for this key; GET /v1/models lists what is.`;
    throw new MeshError(Reason.MODEL_NOT_FOUND, message, { field: "model" });
  }
  return JSON.stringify(modelObject(model));
}

function modelObject(model: ModelInfo): object {
  return { id: model.id, object: "model", created: Number(model.created), owned_by: "helixmesh" };
}

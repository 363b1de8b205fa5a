import type { EmbedResponse } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { unsupported } from "../openai/fields.ts";
import type { EmbeddingsRequest } from "./request.ts";

/**
 * The answer as JSON text (OpenAI API reference, "The embedding object").
 * @throws MeshError UNSUPPORTED_PARAMETER when other dimensions were asked for than the model has
 */
export function embeddingsAnswer(response: EmbedResponse, request: EmbeddingsRequest): string {
  const { base64, dimensions } = request;
  const length = response.embeddings[0]?.values.length;
  if (dimensions !== undefined && length !== undefined && dimensions !== length) {
    throw unsupported(
      "dimensions",
      `dimensions is ${dimensions}, but vectors of ${response.model} have ${length}; leave it out.`,
    );
  }
  const prompt_tokens = response.usage?.promptTokens ?? 0;
  return JSON.stringify({
    object: "list",
    data: response.embeddings.map(({ values }, index) => ({
      object: "embedding",
      index,
      embedding: base64 ? toBase64(values) : values,
    })),
    model: response.model,
    usage: { prompt_tokens, total_tokens: prompt_tokens },
  });
}

/** Little-endian 32-bit floats, whatever this machine's order is. */
function toBase64(values: readonly number[]): string {
  const bytes = Buffer.allocUnsafe(values.length * 4);
  values.forEach((value, i) => bytes.writeFloatLE(value, i * 4));
  return bytes.toString("base64");
}

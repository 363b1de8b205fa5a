import { type MessageInitShape, create } from "@bufbuild/protobuf";
import {
  type EmbedInputSchema,
  type EmbedRequest,
  EmbedRequestSchema,
} from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { Fields, listAt, textAt, wrong } from "../openai/fields.ts";
import { readEndUser, readLabels, readModel, tokenIdsAt } from "../openai/parameters.ts";

export interface EmbeddingsRequest {
  readonly embed: EmbedRequest;
  readonly base64: boolean;
  /** What the caller expects a vector's length to be. */
  readonly dimensions: number | undefined;
}

type Input = MessageInitShape<typeof EmbedInputSchema>;

/** OpenAI API reference, "Create embeddings". @throws MeshError INVALID_REQUEST, UNSUPPORTED_PARAMETER */
export function readEmbeddingsRequest(body: unknown): EmbeddingsRequest {
  const fields = new Fields(body, "");
  const model = readModel(fields);
  const inputs = readInputs(fields);
  const base64 = fields.choice("encoding_format", ["float", "base64"]) === "base64";
  const dimensions = fields.integer("dimensions", 1, 1_000_000);
  const labels = readLabels(fields);
  readEndUser(fields);
  fields.end();
  return { embed: create(EmbedRequestSchema, { model, inputs, labels }), base64, dimensions };
}

function readInputs(fields: Fields): Input[] {
  const input = fields.required("input", fields.raw("input"), "a string or an array");
  if (typeof input === "string") return [text("input", input)];
  if (!Array.isArray(input))
    throw wrong("input", input, "a string, an array of strings, token ids, or an array of arrays of token ids");
  if (typeof input[0] === "number") return [tokens("input", input)];
  return listAt("input", input, 1, 2_048).map((value, i) =>
    Array.isArray(value) ? tokens(`input[${i}]`, value) : text(`input[${i}]`, value),
  );
}

function text(path: string, value: unknown): Input {
  return { input: { case: "text", value: textAt(path, value, 1, Number.POSITIVE_INFINITY) } };
}

function tokens(path: string, value: readonly unknown[]): Input {
  return {
    input: { case: "tokens", value: { ids: tokenIdsAt(path, listAt(path, value, 1, Number.POSITIVE_INFINITY)) } },
  };
}

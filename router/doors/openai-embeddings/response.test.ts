import { create } from "@bufbuild/protobuf";
import { describe, expect, test } from "vitest";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { EmbedResponseSchema } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { readEmbeddingsRequest } from "./request.ts";
import { embeddingsAnswer } from "./response.ts";

const response = create(EmbedResponseSchema, {
  model: "pocket",
  embeddings: [{ values: [0.5, -0.25] }],
  usage: { promptTokens: 3 },
});

function answer(parameters: object): unknown {
  return JSON.parse(embeddingsAnswer(response, readEmbeddingsRequest({ model: "m", input: "a", ...parameters })));
}

describe("an embeddings answer", () => {
  const whole = (embedding: unknown): object => ({
    object: "list",
    data: [{ object: "embedding", index: 0, embedding }],
    model: "pocket",
    usage: { prompt_tokens: 3, total_tokens: 3 },
  });

  test("holds floats", () => {
    expect(answer({})).toEqual(whole([0.5, -0.25]));
  });

  test("holds little-endian floats in base64", () => {
    expect(answer({ encoding_format: "base64" })).toEqual(whole("AAAAPwAAgL4="));
  });

  test("accepts the dimensions it has and refuses others", () => {
    expect(answer({ dimensions: 2 })).toEqual(whole([0.5, -0.25]));
    expect(() => answer({ dimensions: 3 })).toThrow(
      expect.objectContaining({ reason: Reason.UNSUPPORTED_PARAMETER, field: "dimensions" }),
    );
  });
});

import { toJson } from "@bufbuild/protobuf";
import { describe, expect, test } from "vitest";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { EmbedRequestSchema } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { readEmbeddingsRequest } from "./request.ts";

describe("an embeddings request", () => {
  test.each([
    ["a", [{ text: "a" }]],
    [
      ["a", "b"],
      [{ text: "a" }, { text: "b" }],
    ],
    [[1, 2], [{ tokens: { ids: [1, 2] } }]],
    [
      [[1], [2]],
      [{ tokens: { ids: [1] } }, { tokens: { ids: [2] } }],
    ],
  ])("takes the input %j", (input, inputs) => {
    expect(toJson(EmbedRequestSchema, readEmbeddingsRequest({ model: "m", input }).embed)).toEqual({
      model: "m",
      inputs,
    });
  });

  test("reads the encoding, the dimensions and labels", () => {
    const body = { model: "m", input: "a", encoding_format: "base64", dimensions: 3, user: "u", metadata: { a: "b" } };
    expect(readEmbeddingsRequest(body)).toMatchObject({ base64: true, dimensions: 3, embed: { labels: { a: "b" } } });
  });

  test.each([
    ["input", { input: undefined }],
    ["input", { input: "" }],
    ["input", { input: [] }],
    ["input", { input: Array.from({ length: 2_049 }, () => "a") }],
    ["input[0]", { input: [""] }],
    ["input[0]", { input: [[]] }],
    ["input[1]", { input: [1, "a"] }],
    ["input[0][0]", { input: [[1.5]] }],
    ["encoding_format", { encoding_format: "hex" }],
    ["dimensions", { dimensions: 0 }],
  ])("refuses a wrong %s: %j", (field, parameters) => {
    expect(() => readEmbeddingsRequest({ model: "m", input: "a", ...parameters })).toThrow(
      expect.objectContaining({ reason: Reason.INVALID_REQUEST, field }),
    );
  });
});

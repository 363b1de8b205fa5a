import { toJson } from "@bufbuild/protobuf";
import { describe, expect, test } from "vitest";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { GenerateRequestSchema } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { readCompletionRequest } from "./request.ts";

function generates(parameters: object): unknown[] {
  const request = readCompletionRequest({ model: "m", prompt: "p", ...parameters });
  return request.generates.map((one) => toJson(GenerateRequestSchema, one));
}

describe("a completion request", () => {
  test("has OpenAI's default of 16 tokens", () => {
    expect(generates({})).toEqual([{ model: "m", prompt: "p", choiceCount: 1, maxOutputTokens: 16 }]);
  });

  test.each([
    ["text", [{ prompt: "text" }]],
    [
      ["a", "b"],
      [{ prompt: "a" }, { prompt: "b" }],
    ],
    [[1, 2], [{ tokens: { ids: [1, 2] } }]],
    [
      [[1], [2, 3]],
      [{ tokens: { ids: [1] } }, { tokens: { ids: [2, 3] } }],
    ],
  ])("takes the prompt %j", (prompt, inputs) => {
    expect(generates({ prompt })).toMatchObject(inputs);
  });

  test("carries the parameters it shares with chat, and its own", () => {
    const parameters = {
      n: 2,
      best_of: 2,
      logprobs: 0,
      max_tokens: 5,
      priority: 9,
      stop: ["x"],
      seed: 1,
      top_k: 3,
      suffix: "",
      user: "u",
    };
    expect(generates(parameters)).toMatchObject([
      { choiceCount: 2, logprobs: {}, maxOutputTokens: 5, stop: ["x"], sampling: { seed: "1", topK: 3 } },
    ]);
    expect(generates({ echo: true, max_tokens: 0 })).toMatchObject([{ echo: true, maxOutputTokens: 0 }]);
  });

  test.each([
    ["prompt", { prompt: undefined }],
    ["prompt", { prompt: null }],
    ["prompt", { prompt: [] }],
    ["prompt", { prompt: {} }],
    ["prompt", { prompt: Array.from({ length: 129 }, () => "a") }],
    ["prompt[1]", { prompt: ["a", 1] }],
    ["prompt[1]", { prompt: [1, "a"] }],
    ["prompt[0]", { prompt: [[]] }],
    ["prompt[0][1]", { prompt: [[1, -1]] }],
    ["max_tokens", { max_tokens: 0 }],
    ["logprobs", { logprobs: true }],
    ["logprobs", { logprobs: 21 }],
    ["echo", { echo: 1 }],
  ])("refuses a wrong %s: %j", (field, parameters) => {
    expect(() => generates(parameters)).toThrow(expect.objectContaining({ reason: Reason.INVALID_REQUEST, field }));
  });

  test.each([
    ["suffix", { suffix: "x" }],
    ["best_of", { best_of: 3 }],
    ["echo", { echo: true, logprobs: 1 }],
    ["max_completion_tokens", { max_completion_tokens: 1 }],
  ])("refuses %s as unsupported", (field, parameters) => {
    expect(() => generates(parameters)).toThrow(
      expect.objectContaining({ reason: Reason.UNSUPPORTED_PARAMETER, field }),
    );
  });
});

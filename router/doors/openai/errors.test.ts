import { describe, expect, test } from "vitest";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { HttpRefusal, errorBody, errorHeaders, errorStatus } from "./errors.ts";

describe("an error answer", () => {
  test("has OpenAI's body", () => {
    const error = new MeshError(Reason.MODEL_NOT_FOUND, "No such model.", { field: "model" });
    expect(JSON.parse(errorBody(error, "openai-chat"))).toEqual({
      error: { message: "No such model.", type: "invalid_request_error", param: "model", code: "model_not_found" },
    });
    expect(errorStatus(error)).toBe(404);
  });

  test.each([
    ["max_output_tokens", "openai-chat", "max_completion_tokens"],
    ["max_output_tokens", "openai-completions", "max_tokens"],
    ["choice_count", "openai-chat", "n"],
    ["sampling.temperature", "openai-chat", "temperature"],
    ["inputs[3].text", "openai-embeddings", "input[3]"],
    ["inputs[3].tokens.ids[1]", "openai-embeddings", "input[3][1]"],
    ["tokens.ids[0]", "openai-completions", "prompt[0]"],
    ['labels["a"]', "openai-chat", 'metadata["a"]'],
    ["messages[0].role", "openai-chat", "messages[0].role"],
    ["chat.tools[2].parameters_json", "openai-chat", "tools[2].function.parameters"],
    ["tools[2].strict", "openai-chat", "tools[2].function.strict"],
  ] as const)("names %s of the contract at %s as %s, in its message too", (field, door, param) => {
    const error = new MeshError(Reason.INVALID_REQUEST, `${field} is wrong.`, { field });
    expect(JSON.parse(errorBody(error, door))).toMatchObject({ error: { param, message: `${param} is wrong.` } });
  });

  test("leaves a message alone that has the field's name for a word", () => {
    const error = new MeshError(Reason.CONTEXT_LENGTH_EXCEEDED, "The prompt has 9 tokens.", { field: "tokens" });
    expect(JSON.parse(errorBody(error, "openai-completions"))).toMatchObject({
      error: { param: "prompt", message: "The prompt has 9 tokens." },
    });
  });

  test("advises when to retry, rounded up to whole seconds", () => {
    expect(errorHeaders(new MeshError(Reason.OVERLOADED, "x", { retryAfterMs: 1_500 }))).toEqual({
      "x-should-retry": "true",
      "retry-after": "2",
      "retry-after-ms": "1500",
    });
  });

  test("challenges a caller without a valid key", () => {
    expect(errorHeaders(new MeshError(Reason.INVALID_API_KEY, "x"))).toEqual({
      "x-should-retry": "false",
      "www-authenticate": 'Bearer realm="helixmesh"',
    });
  });

  test("can have a status of its own", () => {
    const error = new HttpRefusal(Reason.ROUTE_NOT_FOUND, 405, "method_not_allowed", "x", { allow: "POST" });
    expect(errorStatus(error)).toBe(405);
    expect(errorHeaders(error)).toMatchObject({ allow: "POST" });
    expect(JSON.parse(errorBody(error, undefined))).toMatchObject({
      error: { code: "method_not_allowed", param: null },
    });
  });
});

import { toJson } from "@bufbuild/protobuf";
import { describe, expect, test } from "vitest";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { GenerateRequestSchema } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { readChatRequest } from "./request.ts";

const messages = [{ role: "user", content: "Hi" }];

function generate(parameters: object): unknown {
  return toJson(GenerateRequestSchema, readChatRequest({ model: "m", messages, ...parameters }).generate);
}

describe("a chat request", () => {
  test("needs no more than a model and messages", () => {
    expect(generate({})).toEqual({
      model: "m",
      chat: { messages: [{ role: "ROLE_USER", content: "Hi" }] },
      choiceCount: 1,
    });
  });

  test("carries every sampling parameter", () => {
    const request = generate({
      temperature: 0.5,
      top_p: 0.25,
      top_k: 40,
      min_p: 0.125,
      frequency_penalty: -1.5,
      presence_penalty: 2,
      seed: 7,
      logit_bias: { "50256": -100 },
      stop: ["a", "b"],
      n: 3,
      logprobs: true,
      top_logprobs: 2,
      max_completion_tokens: 9,
      priority: 0,
      metadata: { team: "x" },
    });
    expect(request).toMatchObject({
      sampling: {
        temperature: 0.5,
        topP: 0.25,
        topK: 40,
        minP: 0.125,
        frequencyPenalty: -1.5,
        presencePenalty: 2,
        seed: "7",
        logitBias: { 50256: -100 },
      },
      stop: ["a", "b"],
      choiceCount: 3,
      logprobs: { top: 2 },
      maxOutputTokens: 9,
      priority: 0,
      labels: { team: "x" },
    });
  });

  test("takes null as absent", () => {
    const nothing = { temperature: null, stop: null, tools: null, response_format: null, audio: null, functions: null };
    expect(generate(nothing)).toEqual(generate({}));
  });

  test("takes max_tokens for max_completion_tokens and a string for stop", () => {
    expect(generate({ max_tokens: 4, stop: "x" })).toMatchObject({ maxOutputTokens: 4, stop: ["x"] });
  });

  test("gives a negative seed a place of its own", () => {
    expect(generate({ seed: -1 })).toMatchObject({ sampling: { seed: "18446744073709551615" } });
  });

  test("maps roles, text parts, tool calls and tool results", () => {
    const conversation = [
      { role: "developer", content: "Be brief." },
      {
        role: "user",
        content: [
          { type: "text", text: "a" },
          { type: "text", text: "b" },
        ],
        name: "Ann",
      },
      {
        role: "assistant",
        content: null,
        refusal: null,
        annotations: [],
        tool_calls: [{ id: "c1", type: "function", function: { name: "f", arguments: "{}" } }],
      },
      { role: "tool", tool_call_id: "c1", content: "42" },
    ];
    expect(generate({ messages: conversation })).toMatchObject({
      chat: {
        messages: [
          { role: "ROLE_SYSTEM", content: "Be brief." },
          { role: "ROLE_USER", content: "a\nb", name: "Ann" },
          { role: "ROLE_ASSISTANT", toolCalls: [{ id: "c1", name: "f", argumentsJson: "{}" }] },
          { role: "ROLE_TOOL", toolCallId: "c1", content: "42" },
        ],
      },
    });
  });

  const tool = { type: "function", function: { name: "f", description: "d", parameters: { type: "object" } } };

  test.each([
    ["none", { mode: "MODE_NONE" }],
    ["auto", { mode: "MODE_AUTO" }],
    ["required", { mode: "MODE_REQUIRED" }],
    [
      { type: "function", function: { name: "f" } },
      { mode: "MODE_NAMED", name: "f" },
    ],
  ])("maps tool_choice %j", (tool_choice, toolChoice) => {
    expect(generate({ tools: [tool], tool_choice })).toMatchObject({
      chat: { tools: [{ name: "f", description: "d", parametersJson: '{"type":"object"}' }], toolChoice },
    });
  });

  test("passes strict on", () => {
    const strict = (value: boolean | null) => ({
      ...tool,
      function: { ...tool.function, name: `s_${value}`, strict: value },
    });
    expect(generate({ tools: [strict(true), strict(false), strict(null)] })).toMatchObject({
      chat: { tools: [{ name: "s_true", strict: true }, { name: "s_false" }, { name: "s_null" }] },
    });
  });

  test.each([
    [{ type: "text" }, undefined],
    [{ type: "json_object" }, { jsonObject: true }],
    [
      { type: "json_schema", json_schema: { name: "s", strict: true, schema: { type: "object" } } },
      { jsonSchema: '{"type":"object"}' },
    ],
    [{ type: "json_schema", json_schema: { name: "s" } }, { jsonObject: true }],
  ])("maps response_format %j", (response_format, responseFormat) => {
    expect(generate({ response_format })).toEqual(
      responseFormat === undefined ? generate({}) : { ...(generate({}) as object), responseFormat },
    );
  });

  test("reads what concerns the answer alone", () => {
    const request = readChatRequest({
      model: "m",
      messages,
      stream: true,
      stream_options: { include_usage: true, include_obfuscation: false },
      parallel_tool_calls: false,
      service_tier: "auto",
    });
    expect(request).toMatchObject({ stream: true, includeUsage: true, oneToolCall: true, serviceTier: "auto" });
  });

  test("takes harmless parameters at values that change nothing", () => {
    const harmless = {
      user: "u",
      safety_identifier: "s",
      prompt_cache_key: "k",
      prompt_cache_retention: "in_memory",
      store: false,
      service_tier: "default",
      modalities: ["text"],
      reasoning_effort: "none",
      verbosity: "medium",
      parallel_tool_calls: true,
    };
    expect(generate(harmless)).toEqual(generate({}));
  });

  test.each([
    ["store", { store: true }],
    ["service_tier", { service_tier: "flex" }],
    ["audio", { audio: { voice: "a" } }],
    ["functions", { functions: [] }],
    ["function_call", { function_call: "auto" }],
    ["prediction", { prediction: {} }],
    ["web_search_options", { web_search_options: {} }],
    ["reasoning_effort", { reasoning_effort: "high" }],
    ["verbosity", { verbosity: "low" }],
    ["stream_options.include_obfuscation", { stream: true, stream_options: { include_obfuscation: true } }],
    ["tools[0].type", { tools: [{ type: "custom", custom: {} }] }],
    [
      "messages[0].content[1]",
      {
        messages: [
          {
            role: "user",
            content: [
              { type: "text", text: "" },
              { type: "image_url", image_url: {} },
            ],
          },
        ],
      },
    ],
    ["messages[0].role", { messages: [{ role: "function", content: "" }] }],
    ["tempature", { tempature: 1 }],
    ["messages[0].contents", { messages: [{ role: "user", content: "", contents: "" }] }],
    ["__proto__", JSON.parse('{"__proto__": {"stream": true}}') as object],
    ["constructor", { constructor: 1 }],
  ])("refuses %s as unsupported", (field, parameters) => {
    expect(() => generate(parameters)).toThrow(
      expect.objectContaining({ reason: Reason.UNSUPPORTED_PARAMETER, field }),
    );
  });

  test("suggests the parameter that was meant", () => {
    expect(() => generate({ tempature: 1 })).toThrow("did you mean temperature?");
  });

  test.each([
    ["model", { model: undefined }],
    ["model", { model: "" }],
    ["model", { model: 7 }],
    ["messages", { messages: undefined }],
    ["messages", { messages: [] }],
    ["messages", { messages: "Hi" }],
    ["messages[0]", { messages: ["Hi"] }],
    ["messages[0].role", { messages: [{ content: "" }] }],
    ["messages[0].role", { messages: [{ role: "robot", content: "" }] }],
    ["messages[0].content", { messages: [{ role: "user" }] }],
    ["messages[0].content", { messages: [{ role: "user", content: 3 }] }],
    ["messages[0].content[0].text", { messages: [{ role: "user", content: [{ type: "text" }] }] }],
    ["messages[0].tool_call_id", { messages: [{ role: "tool", content: "" }] }],
    ["temperature", { temperature: 2.5 }],
    ["temperature", { temperature: "1" }],
    ["top_p", { top_p: -0.1 }],
    ["n", { n: 0 }],
    ["n", { n: 17 }],
    ["n", { n: 1.5 }],
    ["seed", { seed: 2 ** 60 }],
    ["max_completion_tokens", { max_completion_tokens: 0 }],
    ["max_tokens", { max_tokens: 1, max_completion_tokens: 2 }],
    ["stop", { stop: 3 }],
    ["stop[1]", { stop: ["a", ""] }],
    ["stop", { stop: Array.from({ length: 17 }, () => "a") }],
    ["logit_bias", { logit_bias: { a: 1 } }],
    ["logit_bias.1", { logit_bias: { 1: 101 } }],
    ["top_logprobs", { top_logprobs: 1 }],
    ["top_logprobs", { logprobs: true, top_logprobs: 21 }],
    ["stream", { stream: "yes" }],
    ["stream_options", { stream_options: { include_usage: true } }],
    ["metadata.a", { metadata: { a: 1 } }],
    ["tool_choice", { tool_choice: "required" }],
    ["tool_choice.function.name", { tools: [tool], tool_choice: { type: "function", function: { name: "g" } } }],
    ["tools[0].function.name", { tools: [{ type: "function", function: { name: "a b" } }] }],
    ["tools[1].function.name", { tools: [tool, tool] }],
    ["response_format.type", { response_format: { type: "xml" } }],
    ["response_format.json_schema", { response_format: { type: "json_schema" } }],
    [
      "response_format.json_schema.schema",
      { response_format: { type: "json_schema", json_schema: { name: "a", schema: "x" } } },
    ],
  ])("refuses a wrong %s: %j", (field, parameters) => {
    expect(() => generate(parameters)).toThrow(expect.objectContaining({ reason: Reason.INVALID_REQUEST, field }));
  });

  test("names path, value and expectation", () => {
    expect(() => generate({ temperature: 3 })).toThrow("temperature is 3; expected a number from 0 to 2.");
    expect(() => generate({ temperature: JSON.parse("1e400") })).toThrow("temperature is Infinity; expected a number");
  });

  test.each([[[]], ["text"], [null], [3]])("refuses the body %j", (body) => {
    expect(() => readChatRequest(body)).toThrow("expected a JSON object");
  });
});

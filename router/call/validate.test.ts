import { type MessageInitShape, create } from "@bufbuild/protobuf";
import { describe, expect, test } from "vitest";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import {
  ChatInputSchema,
  CountTokensRequestSchema,
  EmbedRequestSchema,
  GenerateRequestSchema,
  Role,
  ToolChoice_Mode,
} from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { validateCountTokens, validateEmbed, validateGenerate } from "./validate.ts";

/** The init form of a message, without the message itself. */
type Init<T> = Exclude<T, { $typeName: string }>;
type Generate = Init<MessageInitShape<typeof GenerateRequestSchema>>;
type Chat = MessageInitShape<typeof ChatInputSchema>;

const hello = { role: Role.USER, content: "Hello" };
const valid: Generate = { model: "pocket", input: { case: "prompt", value: "Hello" } };

function faultOf(action: () => void): { field: string; message: string; limit: string } {
  let thrown: unknown;
  try {
    action();
  } catch (error) {
    thrown = error;
  }
  expect(thrown).toBeInstanceOf(MeshError);
  const fault = MeshError.from(thrown);
  expect(fault.reason).toBe(Reason.INVALID_REQUEST);
  return { field: fault.field, message: fault.message, limit: fault.limit };
}

const generateFault = (change: Generate) =>
  faultOf(() => validateGenerate(create(GenerateRequestSchema, { ...valid, ...change })));
const chatFault = (chat: Chat) => generateFault({ input: { case: "chat", value: chat } });

describe("a generate request", () => {
  test("at every limit is accepted", () => {
    const request = create(GenerateRequestSchema, {
      model: "m".repeat(256),
      input: {
        case: "chat",
        value: {
          messages: [
            { role: Role.SYSTEM, content: "" },
            hello,
            { role: Role.ASSISTANT, toolCalls: [{ id: "1", name: "f", argumentsJson: "{}" }] },
            { role: Role.TOOL, toolCallId: "1" },
          ],
          tools: Array.from({ length: 128 }, (_, index) => ({ name: `tool-${index}`, parametersJson: "{}" })),
          toolChoice: { mode: ToolChoice_Mode.NAMED, name: "tool-127" },
        },
      },
      sampling: { temperature: 2, topP: 1, minP: 0, frequencyPenalty: -2, presencePenalty: 2, logitBias: { 5: 100 } },
      stop: Array.from({ length: 16 }, () => "😀".repeat(256)),
      logprobs: { top: 20 },
      responseFormat: { format: { case: "jsonSchema", value: '{"type":"object"}' } },
      choiceCount: 16,
      priority: 9,
      labels: Object.fromEntries(
        Array.from({ length: 16 }, (_, index) => [`${index}`.padEnd(128, "k"), "v".repeat(128)]),
      ),
    });
    expect(() => validateGenerate(request)).not.toThrow();
  });

  test("says what is wrong with a temperature", () => {
    expect(generateFault({ sampling: { temperature: 3 } })).toEqual({
      field: "temperature",
      message: "temperature: 3 is outside 0 to 2.",
      limit: "0 to 2",
    });
  });

  test.each<[string, Generate]>([
    ["model", { model: "" }],
    ["model", { model: "m".repeat(257) }],
    ["messages", { input: { case: undefined } }],
    ["tokens", { input: { case: "tokens", value: { ids: [] } } }],
    ["temperature", { sampling: { temperature: Number.NaN } }],
    ["temperature", { sampling: { temperature: -0.1 } }],
    ["top_p", { sampling: { topP: 1.5 } }],
    ["min_p", { sampling: { minP: -1 } }],
    ["frequency_penalty", { sampling: { frequencyPenalty: 2.1 } }],
    ["presence_penalty", { sampling: { presencePenalty: -2.1 } }],
    ["logit_bias[7]", { sampling: { logitBias: { 7: 101 } } }],
    ["logit_bias", { sampling: { logitBias: Object.fromEntries(Array.from({ length: 1025 }, (_, id) => [id, 1])) } }],
    ["stop", { stop: Array.from({ length: 17 }, () => "x") }],
    ["stop[1]", { stop: ["x", ""] }],
    ["stop[0]", { stop: ["x".repeat(257)] }],
    ["max_output_tokens", { maxOutputTokens: 0 }],
    ["logprobs.top", { logprobs: { top: 21 } }],
    ["response_format", { responseFormat: {} }],
    ["response_format.json_schema", { responseFormat: { format: { case: "jsonSchema", value: "[" } } }],
    [
      "response_format.json_schema",
      { responseFormat: { format: { case: "jsonSchema", value: `"${"x".repeat(65_536)}"` } } },
    ],
    ["response_format.grammar", { responseFormat: { format: { case: "grammar", value: " " } } }],
    ["choice_count", { choiceCount: 17 }],
    ["priority", { priority: 10 }],
    ["labels", { labels: Object.fromEntries(Array.from({ length: 17 }, (_, index) => [`${index}`, ""])) }],
    ['labels["k"]', { labels: { k: "v".repeat(129) } }],
    ['labels[""]', { labels: { "": "v" } }],
  ])("names the field %s", (field, change) => {
    expect(generateFault(change).field).toBe(field);
  });

  test.each<[string, Chat]>([
    ["messages", { messages: [] }],
    ["messages[1].role", { messages: [hello, { content: "?" }] }],
    ["messages[0].tool_call_id", { messages: [{ role: Role.TOOL, content: "42" }] }],
    ["messages[0].tool_calls", { messages: [{ ...hello, toolCalls: [{ id: "1", name: "f" }] }] }],
    ["messages[0].tool_calls[0].name", { messages: [{ role: Role.ASSISTANT, toolCalls: [{ id: "1" }] }] }],
    ["tools", { messages: [hello], tools: Array.from({ length: 129 }, (_, index) => ({ name: `t${index}` })) }],
    ["tools[0].name", { messages: [hello], tools: [{ name: "not a name" }] }],
    ["tools[1].name", { messages: [hello], tools: [{ name: "f" }, { name: "f" }] }],
    ["tools[0].parameters_json", { messages: [hello], tools: [{ name: "f", parametersJson: "[]" }] }],
    ["tool_choice", { messages: [hello], toolChoice: { mode: ToolChoice_Mode.REQUIRED } }],
    [
      "tool_choice.name",
      { messages: [hello], tools: [{ name: "f" }], toolChoice: { mode: ToolChoice_Mode.NAMED, name: "g" } },
    ],
  ])("of chat names the field %s", (field, chat) => {
    expect(chatFault(chat).field).toBe(field);
  });

  test("may ask for no output when it echoes the prompt", () => {
    expect(() =>
      validateGenerate(create(GenerateRequestSchema, { ...valid, echo: true, maxOutputTokens: 0 })),
    ).not.toThrow();
  });
});

describe("an embed request", () => {
  test.each<[string, MessageInitShape<typeof EmbedRequestSchema>]>([
    ["model", { inputs: [{ input: { case: "text", value: "a" } }] }],
    ["inputs", { model: "pocket" }],
    [
      "inputs",
      {
        model: "pocket",
        inputs: Array.from({ length: 2049 }, () => ({ input: { case: "text" as const, value: "a" } })),
      },
    ],
    ["inputs[0].text", { model: "pocket", inputs: [{ input: { case: "text", value: "" } }] }],
    ["inputs[0].tokens", { model: "pocket", inputs: [{ input: { case: "tokens", value: {} } }] }],
    ["inputs[0]", { model: "pocket", inputs: [{}] }],
  ])("names the field %s", (field, request) => {
    expect(faultOf(() => validateEmbed(create(EmbedRequestSchema, request))).field).toBe(field);
  });
});

describe("a count request", () => {
  test("needs an input", () => {
    expect(faultOf(() => validateCountTokens(create(CountTokensRequestSchema, { model: "pocket" }))).field).toBe(
      "messages",
    );
  });
});

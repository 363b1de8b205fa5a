import { type MessageInitShape, create, fromBinary, isFieldSet, toBinary } from "@bufbuild/protobuf";
import { describe, expect, test } from "vitest";
import {
  ChatInputSchema,
  GenerateRequestSchema,
  MessageSchema,
  Role,
  ToolChoice_Mode,
} from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { generateBytes } from "./generate-bytes.ts";

type Init = MessageInitShape<typeof GenerateRequestSchema>;

const tool = { name: "t", description: "d", parametersJson: "{}", strict: true };
const user = { role: Role.USER, content: "Hi, wörld 🙂" };
const assistant = { role: Role.ASSISTANT, toolCalls: [{ id: "1", name: "t", argumentsJson: "{}" }] };
const everyMessage = { ...assistant, content: "c", name: "n", toolCallId: "i" };
const everyChat = { messages: [everyMessage], tools: [tool], toolChoice: { mode: ToolChoice_Mode.AUTO } };
const every: Init = {
  model: "m",
  input: { case: "chat", value: everyChat },
  sampling: { temperature: 0, seed: 5n },
  stop: ["a", "b"],
  maxOutputTokens: 300,
  logprobs: { top: 0 },
  responseFormat: { format: { case: "jsonObject", value: true } },
  choiceCount: 2,
  priority: 0,
  labels: { a: "b" },
  echo: true,
};

function expectWhole(init: Init): void {
  const request = create(GenerateRequestSchema, init);
  expect(Buffer.compare(generateBytes(request), toBinary(GenerateRequestSchema, request))).toBe(0);
}

describe("the bytes of a request", () => {
  test.each<[string, Init]>([
    ["an empty one", {}],
    [
      "a chat",
      { model: "m", input: { case: "chat", value: { messages: [user] } }, maxOutputTokens: 1, choiceCount: 1 },
    ],
    ["a conversation", { input: { case: "chat", value: { messages: [user, assistant, { role: Role.TOOL }, user] } } }],
    ["a chat without messages", { input: { case: "chat", value: {} } }],
    ["a long chat", { input: { case: "chat", value: { messages: [{ content: "é".repeat(300_000) }, user] } } }],
    ["a prompt", { model: "m", input: { case: "prompt", value: "Once upon a time" }, maxOutputTokens: 5_000_000 }],
    ["an empty prompt", { input: { case: "prompt", value: "" } }],
    ["tokens", { input: { case: "tokens", value: { ids: [1, 2_000_000] } } }],
    ["a limit of no tokens", { input: { case: "prompt", value: "p" }, maxOutputTokens: 0, echo: true }],
    ["every field", every],
    ["every field but the limit", { ...every, maxOutputTokens: undefined }],
  ])("say all of %s", (_, init) => expectWhole(init));

  test("say each field alone", () => {
    for (const field of GenerateRequestSchema.fields) {
      if (field.oneof) continue;
      const value: unknown = Reflect.get(create(GenerateRequestSchema, every), field.localName);
      const request = create(GenerateRequestSchema, {
        input: { case: "prompt", value: "p" },
        [field.localName]: value,
      });
      expectWhole(request);
    }
  });

  test("are tried with every field that there is", () => {
    const request = create(GenerateRequestSchema, every);
    const unset = GenerateRequestSchema.fields.filter((field) => !isFieldSet(request, field)).map(({ name }) => name);
    expect(unset).toEqual(["prompt", "tokens"]);
    const chat = create(ChatInputSchema, everyChat);
    expect(ChatInputSchema.fields.filter((field) => !isFieldSet(chat, field))).toEqual([]);
    const message = create(MessageSchema, everyMessage);
    expect(MessageSchema.fields.filter((field) => !isFieldSet(message, field))).toEqual([]);
  });

  test("keep fields of a newer contract", () => {
    // The prompt "p", and 1 in field 1,000.
    const request = fromBinary(GenerateRequestSchema, Uint8Array.of(0x1a, 1, 0x70, 0xc0, 0x3e, 1));
    const [field] = fromBinary(GenerateRequestSchema, generateBytes(request)).$unknown ?? [];
    expect(field?.no).toBe(1_000);
  });
});

import { type DescField, type Message as AnyMessage, isFieldSet, toBinary } from "@bufbuild/protobuf";
import {
  ChatInputSchema,
  type GenerateRequest,
  GenerateRequestSchema,
  type Message,
  MessageSchema,
} from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { ProtoWriter, lengthDelimitedBytes, stringBytes, textBytes, uintBytes } from "#kernel/proto-writer.ts";

const { model, chat, prompt, maxOutputTokens, choiceCount } = GenerateRequestSchema.field;
const { messages } = ChatInputSchema.field;
const { role, content, name, toolCallId } = MessageSchema.field;

/** What is not written by hand, fields that the contract has yet to get included. */
const otherOfRequest = others(GenerateRequestSchema.fields, [model, chat, prompt, maxOutputTokens, choiceCount]);
const otherOfChat = others(ChatInputSchema.fields, [messages]);
const otherOfMessage = others(MessageSchema.fields, [role, content, name, toolCallId]);

/** A writer asks for room for the longest number, however short the one that it writes. */
const spareBytes = 16;

/** A message of a chat, with its length; encoded when protobuf-es had to do it. */
interface Part {
  readonly message: Message;
  readonly encoded: Uint8Array | undefined;
  readonly length: number;
  readonly contentBytes: number;
}

/**
 * `toBinary` for a request, into one piece of memory of its size: protobuf-es grows into memory three times as large and
 * copies, which for a long prompt keeps the collector busy. By hand is what nearly all requests are made of; what else is
 * set is protobuf-es's, and goes behind it. The bytes are the same, for agents tell by them whether a request is repeated.
 */
export function generateBytes(request: GenerateRequest): Uint8Array {
  const { input } = request;
  // An empty prompt is written all the same; tokens are not text.
  const isText = input.case === "chat" || (input.case === "prompt" && input.value !== "");
  if (!isText || request.maxOutputTokens === 0) return toBinary(GenerateRequestSchema, request);
  const more = isAnySet(request, otherOfRequest)
    ? toBinary(GenerateRequestSchema, { ...request, model: "", input: { case: undefined } })
    : undefined;
  const parts = input.case === "chat" ? input.value.messages.map(partOf) : [];
  const moreChat =
    input.case === "chat" && isAnySet(input.value, otherOfChat)
      ? toBinary(ChatInputSchema, { ...input.value, messages: [] })
      : undefined;
  let inputBytes = moreChat?.length ?? 0;
  for (const { length } of parts) inputBytes += lengthDelimitedBytes(length);
  if (input.case === "prompt") inputBytes = textBytes(input.value);
  const { maxOutputTokens: most = 0 } = request;
  const restBytes = more?.length ?? uintBytes(most) + uintBytes(request.choiceCount);
  const writer = new ProtoWriter(
    stringBytes(request.model) + lengthDelimitedBytes(inputBytes) + restBytes + spareBytes,
  );
  writer.string(model.number, request.model);
  if (input.case === "prompt") writer.string(prompt.number, input.value, inputBytes);
  else writer.lengthDelimited(chat.number, inputBytes);
  for (const part of parts) writePart(writer, part);
  if (moreChat) writer.encoded(moreChat);
  if (more) {
    writer.encoded(more);
  } else {
    writer.uint(maxOutputTokens.number, most);
    writer.uint(choiceCount.number, request.choiceCount);
  }
  return writer.bytes.subarray(0, writer.length);
}

function others(fields: readonly DescField[], byHand: readonly DescField[]): readonly DescField[] {
  return fields.filter((field) => !byHand.includes(field));
}

function isAnySet(message: AnyMessage, fields: readonly DescField[]): boolean {
  return message.$unknown !== undefined || fields.some((field) => isFieldSet(message, field));
}

function partOf(message: Message): Part {
  if (isAnySet(message, otherOfMessage)) {
    const encoded = toBinary(MessageSchema, message);
    return { message, encoded, length: encoded.length, contentBytes: 0 };
  }
  const contentBytes = textBytes(message.content);
  const texts = stringBytes(message.name) + stringBytes(message.toolCallId);
  const length = uintBytes(message.role) + texts + (contentBytes === 0 ? 0 : lengthDelimitedBytes(contentBytes));
  return { message, encoded: undefined, length, contentBytes };
}

function writePart(writer: ProtoWriter, { message, encoded, length, contentBytes }: Part): void {
  writer.lengthDelimited(messages.number, length);
  if (encoded) return writer.encoded(encoded);
  writer.uint(role.number, message.role);
  writer.string(content.number, message.content, contentBytes);
  writer.string(name.number, message.name);
  writer.string(toolCallId.number, message.toolCallId);
}

import { create } from "@bufbuild/protobuf";
import { type Message, Role, type ToolCall, ToolCallSchema } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { Fields, invalid, listAt, textAt, unsupported, wrong } from "../openai/fields.ts";

const roles = ["system", "developer", "user", "assistant", "tool"] as const;
const contractRoles = {
  system: Role.SYSTEM,
  developer: Role.SYSTEM,
  user: Role.USER,
  assistant: Role.ASSISTANT,
  tool: Role.TOOL,
} as const;

export function readMessages(fields: Fields): Message[] {
  const list = fields.required("messages", fields.list("messages", 1, 65_536), "an array of messages");
  return list.map((value, i) => readMessage(new Fields(value, `messages[${i}]`)));
}

function readMessage(fields: Fields): Message {
  if (fields.raw("role") === "function") {
    throw unsupported(fields.at("role"), `${fields.at("role")} is "function", which is not supported; use "tool".`);
  }
  const role = fields.requiredChoice("role", roles);
  const toolCalls = role === "assistant" ? readToolCalls(fields) : [];
  const content = readContent(fields);
  if (content === undefined && toolCalls.length === 0) {
    throw invalid(
      fields.at("content"),
      `${fields.at("content")} is missing; expected a string or an array of text parts.`,
    );
  }
  const message: Message = {
    $typeName: "helixmesh.inference.v1.Message",
    role: contractRoles[role],
    content: content ?? "",
    name: fields.text("name", 1, 256) ?? "",
    toolCalls,
    toolCallId: role === "tool" ? fields.requiredText("tool_call_id", 1, 256) : "",
  };
  if (role === "assistant") readReplayed(fields);
  fields.end();
  return message;
}

/** Text parts are lines of one text, as in vLLM and llama.cpp. */
function readContent(fields: Fields): string | undefined {
  const content = fields.raw("content");
  if (content === undefined || typeof content === "string") return content;
  const path = fields.at("content");
  if (!Array.isArray(content)) throw wrong(path, content, "a string or an array of text parts");
  return listAt(path, content, 1, 65_536)
    .map((part, j) => readTextPart(new Fields(part, `${path}[${j}]`)))
    .join("\n");
}

function readTextPart(part: Fields): string {
  const type = part.requiredText("type");
  if (type !== "text") {
    const shown = JSON.stringify(type.slice(0, 40));
    throw unsupported(
      part.path,
      `${part.path} is a part of type ${shown}, which is not supported; send parts of type "text".`,
    );
  }
  const text = part.requiredText("text");
  part.end();
  return text;
}

function readToolCalls(fields: Fields): ToolCall[] {
  return (fields.list("tool_calls", 0, 1_024) ?? []).map((value, j) => {
    const call = new Fields(value, `${fields.at("tool_calls")}[${j}]`);
    const id = call.requiredText("id", 1, 256);
    if (call.requiredText("type") !== "function") {
      throw unsupported(call.at("type"), `${call.at("type")} is not supported; send "function".`);
    }
    const called = call.required("function", call.object("function"), "an object with name and arguments");
    const name = called.requiredText("name", 1, 64);
    const argumentsJson = textAt(called.at("arguments"), called.raw("arguments") ?? "", 0, Number.POSITIVE_INFINITY);
    called.end();
    call.end();
    return create(ToolCallSchema, { id, name, argumentsJson });
  });
}

/** Callers send our own answers back as they were; what is empty in them says nothing. */
function readReplayed(fields: Fields): void {
  fields.list("annotations", 0, 0);
  fields.refuse("refusal", "send it as content");
  fields.refuse("audio", "send its transcript as content");
  fields.refuse("function_call", "use tool_calls");
}

import { create } from "@bufbuild/protobuf";
import {
  type Tool,
  type ToolChoice,
  ToolChoiceSchema,
  ToolChoice_Mode,
  ToolSchema,
} from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { Fields, invalid, unsupported, wrong } from "../openai/fields.ts";

export interface Tools {
  readonly tools: Tool[];
  readonly toolChoice: ToolChoice | undefined;
  readonly oneToolCall: boolean;
}

export function readTools(fields: Fields): Tools {
  const tools = (fields.list("tools", 0, 128) ?? []).map((value, i) => readTool(new Fields(value, `tools[${i}]`)));
  const names = tools.map((tool) => tool.name);
  const twice = names.findIndex((name, i) => names.indexOf(name) !== i);
  if (twice !== -1)
    throw invalid(
      `tools[${twice}].function.name`,
      `tools[${twice}].function.name is "${names[twice]}" again; give every tool its own name.`,
    );
  const toolChoice = readToolChoice(fields, names);
  const oneToolCall = fields.boolean("parallel_tool_calls") === false;
  return { tools, toolChoice, oneToolCall };
}

function readTool(fields: Fields): Tool {
  const type = fields.requiredText("type");
  if (type !== "function") {
    throw unsupported(
      fields.at("type"),
      `${fields.at("type")} is ${JSON.stringify(type.slice(0, 40))}, which is not supported; send "function".`,
    );
  }
  const declared = fields.required("function", fields.object("function"), "an object with name and parameters");
  const name = readToolName(declared);
  const description = declared.text("description") ?? "";
  const parametersJson = declared.jsonText("parameters", 65_536) ?? "";
  const strict = declared.boolean("strict") ?? false;
  declared.end();
  fields.end();
  return create(ToolSchema, { name, description, parametersJson, strict });
}

function readToolName(fields: Fields): string {
  const name = fields.requiredText("name", 1, 64);
  if (!/^[\w-]+$/.test(name)) throw wrong(fields.at("name"), name, "letters, digits, underscores and hyphens");
  return name;
}

const modes = { none: ToolChoice_Mode.NONE, auto: ToolChoice_Mode.AUTO, required: ToolChoice_Mode.REQUIRED } as const;

function readToolChoice(fields: Fields, names: readonly (string | undefined)[]): ToolChoice | undefined {
  const choice = fields.raw("tool_choice");
  if (choice === undefined) return undefined;
  if (names.length === 0) {
    // What would happen anyway.
    if (choice === "none" || choice === "auto") return undefined;
    throw invalid("tool_choice", "tool_choice is only allowed when tools are given.");
  }
  if (typeof choice === "string") {
    if (choice === "none" || choice === "auto" || choice === "required")
      return create(ToolChoiceSchema, { mode: modes[choice] });
    throw wrong("tool_choice", choice, '"none", "auto", "required" or an object that names a function');
  }
  const named = new Fields(choice, "tool_choice");
  const type = named.requiredText("type");
  if (type !== "function") {
    throw unsupported(
      "tool_choice.type",
      `tool_choice.type is ${JSON.stringify(type.slice(0, 40))}, which is not supported; send "function".`,
    );
  }
  const called = named.required("function", named.object("function"), "an object with a name");
  const name = readToolName(called);
  called.end();
  named.end();
  if (!names.includes(name))
    throw invalid("tool_choice.function.name", `tool_choice.function.name is "${name}", which is none of the tools.`);
  return create(ToolChoiceSchema, { mode: ToolChoice_Mode.NAMED, name });
}

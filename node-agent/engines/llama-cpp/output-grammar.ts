import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import {
  type ChatInput,
  type GenerateRequest,
  type Tool,
  ToolChoice_Mode,
} from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { GrammarText, literal } from "./grammar-text.ts";
import { addJsonSchema } from "./json-schema.ts";

export interface OutputGrammar {
  readonly text: string;
  /** The request's field to name when the grammar turns out to be wrong. */
  readonly field: string;
}

const largestBytes = 65_536;

const openTag = "<tool_call>";

/**
 * What response_format, tool_choice and strict tools demand, as one grammar. With a format and tools that may be called
 * freely, the model either calls tools or answers in the format.
 */
export function outputGrammar(request: GenerateRequest): OutputGrammar | undefined {
  const chat = request.input.case === "chat" ? request.input.value : undefined;
  const mode = chat?.toolChoice?.mode ?? ToolChoice_Mode.UNSPECIFIED;
  const forced = mode === ToolChoice_Mode.REQUIRED || mode === ToolChoice_Mode.NAMED;
  const offers = chat !== undefined && chat.tools.length > 0 && mode !== ToolChoice_Mode.NONE;
  const format = request.responseFormat?.format;
  const free = format === undefined || format.case === undefined || format.case === "text";

  if (forced && chat) {
    if (!free) throw conflict("response_format", "chat.tool_choice forces a tool call, whose shape is fixed");
    return toolCalls(chat, mode === ToolChoice_Mode.NAMED);
  }
  if (free) {
    const strict = offers && chat.tools.some((tool) => tool.strict);
    return strict ? freeTextOrCalls(chat.tools) : undefined;
  }

  const grammar = new GrammarText();
  const orCalls = offers ? ` | ${addToolCall(grammar, chat.tools)}+` : "";
  switch (format.case) {
    case "jsonObject":
      return { text: grammar.toString(`object${orCalls}`), field: "response_format.json_object" };
    case "jsonSchema": {
      const field = "response_format.json_schema";
      checkSize(format.value, field);
      return { text: grammar.toString(`${addJsonSchema(grammar, format.value, field)}${orCalls}`), field };
    }
    case "grammar": {
      const field = "response_format.grammar";
      checkSize(format.value, field);
      if (offers) throw conflict(field, "chat.tools are offered and a grammar leaves no room for their calls");
      return { text: format.value, field };
    }
  }
}

/**
 * Free text in which every tool call is well formed: what one strict tool promises. The grammar holds from the first
 * token on, as an automaton that looks for the open tag, rather than from the tag on: so a token that spans the tag's
 * end is judged like any other, and the state depends on nothing but the text so far.
 *
 * Rule `text<n>` stands where the last n characters begin the tag. A "<" always begins it anew: the tag has no other.
 */
function freeTextOrCalls(tools: readonly Tool[]): OutputGrammar {
  const grammar = new GrammarText();
  const call = grammar.add(callsOf(grammar, tools, (tool) => tool.strict).join(" | "));
  for (const [matched, next] of openTag.split("").entries()) {
    const complete = matched + 1 === openTag.length;
    const further = `${literal(next)} ${complete ? `${call} text0` : `text${matched + 1}`}`;
    const anew = matched === 0 ? "" : ` | "<" text1`;
    grammar.set(`text${matched}`, `"" | ${further}${anew} | [^<${matched === 0 ? "" : next}] text0`);
  }
  return { text: grammar.toString("text0"), field: "chat.tools" };
}

/** One call of the named tool, or one or more calls of any. */
function toolCalls(chat: ChatInput, named: boolean): OutputGrammar {
  const grammar = new GrammarText();
  if (chat.tools.length === 0) {
    throw new MeshError(Reason.INVALID_REQUEST, "chat.tool_choice demands a tool call, but chat.tools is empty.", {
      field: "chat.tool_choice",
    });
  }
  if (!named) return { text: grammar.toString(`${addToolCall(grammar, chat.tools)}+`), field: "chat.tools" };
  const name = chat.toolChoice?.name ?? "";
  if (!chat.tools.some((tool) => tool.name === name)) {
    throw new MeshError(
      Reason.INVALID_REQUEST,
      `chat.tool_choice.name is ${JSON.stringify(name)}, which is not among chat.tools.`,
      {
        field: "chat.tool_choice.name",
      },
    );
  }
  return { text: grammar.toString(addToolCall(grammar, chat.tools, name)), field: "chat.tools" };
}

/** A call of the tool of that name, else of any. */
function addToolCall(grammar: GrammarText, tools: readonly Tool[], name?: string): string {
  const calls = callsOf(grammar, tools, () => true, name);
  return grammar.add(`${literal(openTag)} (${calls.join(" | ")})`);
}

/**
 * What follows the open tag, for each tool. Arguments follow the tool's schema where `bound`, else they are any object:
 * node-agent/output takes nothing else for a call. Many models were trained with a line break inside the tags.
 */
function callsOf(
  grammar: GrammarText,
  tools: readonly Tool[],
  bound: (tool: Tool) => boolean,
  name?: string,
): string[] {
  return tools.flatMap((tool, index) => {
    if (name !== undefined && tool.name !== name) return [];
    const head = literal(`{"name": ${JSON.stringify(tool.name)}, "arguments": `);
    const value = bound(tool) ? argumentsRule(grammar, tool, `chat.tools[${index}].parameters_json`) : "object";
    return [`"\\n"? ${head} ${value} "}" "\\n"? "</tool_call>"`];
  });
}

function argumentsRule(grammar: GrammarText, { parametersJson }: Tool, field: string): string {
  checkSize(parametersJson, field);
  const rule = addJsonSchema(grammar, parametersJson || '{"type": "object", "additionalProperties": false}', field);
  // A schema that says nothing admits any value; arguments are an object even so.
  if (rule === "value") return "object";
  const type = declaredType(parametersJson);
  if (type === undefined || type === "object") return rule;
  const message = `${field} has the type ${JSON.stringify(type)}; arguments are an object, so it must be "object".`;
  throw new MeshError(Reason.INVALID_REQUEST, message, { field });
}

/** Of a schema that was found to be one. */
function declaredType(schema: string): unknown {
  const value: unknown = JSON.parse(schema || "{}");
  return typeof value === "object" && value !== null ? Reflect.get(value, "type") : undefined;
}

function checkSize(text: string, field: string): void {
  const bytes = Buffer.byteLength(text);
  if (bytes <= largestBytes) return;
  throw new MeshError(Reason.INVALID_REQUEST, `${field} has ${bytes} bytes; the most is ${largestBytes}.`, {
    field,
    limit: `${largestBytes} bytes`,
  });
}

function conflict(field: string, why: string): MeshError {
  return new MeshError(
    Reason.UNSUPPORTED_PARAMETER,
    `${field} cannot be honoured here: ${why}; leave one of the two out.`,
    { field },
  );
}

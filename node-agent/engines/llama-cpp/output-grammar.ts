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

/**
 * What response_format and tool_choice demand, as one grammar. With a format and tools that may be called freely, the
 * model either calls tools or answers in the format.
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
  if (free) return undefined;

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
  const tools = chat.tools.filter((tool) => tool.name === name);
  if (tools.length === 0) {
    throw new MeshError(
      Reason.INVALID_REQUEST,
      `chat.tool_choice.name is ${JSON.stringify(name)}, which is not among chat.tools.`,
      {
        field: "chat.tool_choice.name",
      },
    );
  }
  return { text: grammar.toString(addToolCall(grammar, tools)), field: "chat.tools" };
}

function addToolCall(grammar: GrammarText, tools: readonly Tool[]): string {
  const calls = tools.map((tool, index) => {
    const field = `chat.tools[${index}].parameters_json`;
    const schema =
      tool.parametersJson === "" ? '{"type": "object", "additionalProperties": false}' : tool.parametersJson;
    checkSize(schema, field);
    const head = literal(`<tool_call>{"name": ${JSON.stringify(tool.name)}, "arguments": `);
    return `${head} ${addJsonSchema(grammar, schema, field)} ${literal("}</tool_call>")}`;
  });
  return grammar.add(calls.join(" | "));
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

import {
  type ChatInput,
  type CountTokensRequest,
  type EmbedRequest,
  type GenerateRequest,
  type Message,
  type ResponseFormat,
  Role,
  type Sampling,
  type Tool,
  ToolChoice_Mode,
} from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";

// Every limit that proto/helixmesh/inference/v1 promises, in one place. Fields are named as a caller of any door knows
// them: without the containers that only the contract has (`temperature`, not `sampling.temperature`).

const kib64 = 64 * 1024;

/** @throws MeshError INVALID_REQUEST with the field and its limit. */
export function validateGenerate(request: GenerateRequest): void {
  validateModel(request.model);
  switch (request.input.case) {
    case "chat":
      validateChat(request.input.value);
      break;
    case "tokens":
      if (request.input.value.ids.length === 0) fail("tokens", "is empty; it must hold at least one token id");
      break;
    case "prompt":
      break;
    case undefined:
      fail("messages", "no input; send one of chat messages, prompt or tokens");
  }
  if (request.sampling) validateSampling(request.sampling);
  atMost("stop", request.stop.length, 16, "strings");
  request.stop.forEach((text, index) => length(`stop[${index}]`, text, 1, 256));
  if (request.maxOutputTokens === 0 && !request.echo) {
    fail("max_output_tokens", "is 0; it must be at least 1, or left out for all that the context allows");
  }
  if (request.logprobs) inRange("logprobs.top", request.logprobs.top, 0, 20);
  if (request.responseFormat) validateFormat(request.responseFormat);
  inRange("choice_count", request.choiceCount, 0, 16);
  if (request.priority !== undefined) inRange("priority", request.priority, 0, 9);
  validateLabels(request.labels);
}

/** @throws MeshError INVALID_REQUEST */
export function validateEmbed(request: EmbedRequest): void {
  validateModel(request.model);
  if (request.inputs.length === 0) fail("inputs", "is empty; it must hold at least one text or token list");
  atMost("inputs", request.inputs.length, 2048, "inputs");
  request.inputs.forEach(({ input }, index) => {
    switch (input.case) {
      case "text":
        if (input.value === "") fail(`inputs[${index}].text`, "is empty; leave it out or send text");
        break;
      case "tokens":
        if (input.value.ids.length === 0)
          fail(`inputs[${index}].tokens`, "is empty; it must hold at least one token id");
        break;
      case undefined:
        fail(`inputs[${index}]`, "has neither text nor tokens; send one of them");
    }
  });
  validateLabels(request.labels);
}

/** @throws MeshError INVALID_REQUEST */
export function validateCountTokens(request: CountTokensRequest): void {
  validateModel(request.model);
  if (request.input.case === undefined) fail("messages", "no input; send one of chat messages or prompt");
  if (request.input.case === "chat") validateChat(request.input.value);
}

function validateModel(model: string): void {
  if (model === "") fail("model", "is missing; name a model or alias");
  length("model", model, 1, 256);
}

function validateChat(chat: ChatInput): void {
  if (chat.messages.length === 0) fail("messages", "is empty; it must hold at least one message");
  chat.messages.forEach((message, index) => validateMessage(message, `messages[${index}]`));
  atMost("tools", chat.tools.length, 128, "tools");
  const names = new Set<string>();
  chat.tools.forEach((tool, index) => validateTool(tool, `tools[${index}]`, names));
  const choice = chat.toolChoice;
  switch (choice?.mode) {
    case undefined:
    case ToolChoice_Mode.UNSPECIFIED:
    case ToolChoice_Mode.AUTO:
    case ToolChoice_Mode.NONE:
      return;
    case ToolChoice_Mode.REQUIRED:
      if (chat.tools.length === 0) fail("tool_choice", "requires a tool call, but there are no tools");
      return;
    case ToolChoice_Mode.NAMED:
      if (!names.has(choice?.name ?? "")) fail("tool_choice.name", `${quote(choice?.name ?? "")} is none of the tools`);
      return;
    default:
      fail("tool_choice.mode", `${String(choice?.mode)} is no mode of this API version`);
  }
}

function validateMessage(message: Message, path: string): void {
  switch (message.role) {
    case Role.SYSTEM:
    case Role.USER:
      break;
    case Role.ASSISTANT:
      message.toolCalls.forEach((call, index) => {
        if (call.name === "") fail(`${path}.tool_calls[${index}].name`, "is missing; name the tool that was called");
      });
      break;
    case Role.TOOL:
      if (message.toolCallId === "") fail(`${path}.tool_call_id`, "is missing; a tool message answers one tool call");
      break;
    default:
      fail(
        `${path}.role`,
        `${message.role === 0 ? "is missing" : message.role}; it must be system, user, assistant or tool`,
      );
  }
  if (message.role !== Role.ASSISTANT && message.toolCalls.length > 0) {
    fail(`${path}.tool_calls`, "belongs to assistant messages only");
  }
}

function validateTool(tool: Tool, path: string, names: Set<string>): void {
  if (!/^[a-zA-Z0-9_-]{1,64}$/.test(tool.name)) {
    fail(`${path}.name`, `${quote(tool.name)} must be 1 to 64 characters of a-z, A-Z, 0-9, underscore and hyphen`);
  }
  if (names.has(tool.name)) fail(`${path}.name`, `${quote(tool.name)} names two tools; names must differ`);
  names.add(tool.name);
  if (tool.parametersJson !== "" && !isJsonObject(tool.parametersJson)) {
    fail(`${path}.parameters_json`, "is no JSON object; it must be a JSON Schema");
  }
}

function validateSampling(sampling: Sampling): void {
  if (sampling.temperature !== undefined) inRange("temperature", sampling.temperature, 0, 2);
  if (sampling.topP !== undefined) inRange("top_p", sampling.topP, 0, 1);
  if (sampling.minP !== undefined) inRange("min_p", sampling.minP, 0, 1);
  if (sampling.frequencyPenalty !== undefined) inRange("frequency_penalty", sampling.frequencyPenalty, -2, 2);
  if (sampling.presencePenalty !== undefined) inRange("presence_penalty", sampling.presencePenalty, -2, 2);
  const biases = Object.entries(sampling.logitBias);
  atMost("logit_bias", biases.length, 1024, "tokens");
  for (const [token, bias] of biases) inRange(`logit_bias[${token}]`, bias, -100, 100);
}

function validateFormat({ format }: ResponseFormat): void {
  switch (format.case) {
    case "text":
    case "jsonObject":
      return;
    case "jsonSchema":
      atMost("response_format.json_schema", Buffer.byteLength(format.value), kib64, "bytes");
      if (!isJsonObject(format.value))
        fail("response_format.json_schema", "is no JSON object; it must be a JSON Schema");
      return;
    case "grammar":
      atMost("response_format.grammar", Buffer.byteLength(format.value), kib64, "bytes");
      if (format.value.trim() === "") fail("response_format.grammar", "is empty; send a GBNF grammar");
      return;
    case undefined:
      fail("response_format", "names no format; send one of text, json_object, json_schema or grammar");
  }
}

function validateLabels(labels: Readonly<Record<string, string>>): void {
  const entries = Object.entries(labels);
  atMost("labels", entries.length, 16, "labels");
  for (const [key, value] of entries) {
    length(`labels[${quote(key.slice(0, 128))}]`, key, 1, 128, "its key");
    length(`labels[${quote(key)}]`, value, 0, 128);
  }
}

/** Also refuses NaN. */
function inRange(field: string, value: number, min: number, max: number): void {
  if (value >= min && value <= max) return;
  // Floats of the contract have 24 bits; more digits would show 2.1 as 2.0999999046325684.
  refuse(field, `${field}: ${Number(value.toPrecision(7))} is outside ${min} to ${max}`, `${min} to ${max}`);
}

function atMost(field: string, count: number, max: number, unit: string): void {
  if (count <= max) return;
  refuse(field, `${field}: ${count} ${unit} are more than the limit of ${max}`, `${max} ${unit}`);
}

/** In characters, which are Unicode code points. */
function length(field: string, text: string, min: number, max: number, what = "it"): void {
  // A text has at most as many characters as UTF-16 units, so most need no count.
  const characters = text.length <= max ? text.length : Array.from(text).length;
  if (characters >= min && characters <= max) return;
  const limit = min === 0 ? `at most ${max} characters` : `${min} to ${max} characters`;
  refuse(field, `${field}: ${what} has ${characters} characters; it must have ${limit}`, limit);
}

function isJsonObject(text: string): boolean {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null && !Array.isArray(value);
  } catch {
    // Not JSON is not an object; the caller says so.
    return false;
  }
}

function quote(text: string): string {
  return JSON.stringify(text.length <= 128 ? text : `${text.slice(0, 128)}…`);
}

function fail(field: string, what: string): never {
  throw new MeshError(Reason.INVALID_REQUEST, `${field}: ${what}.`, { field });
}

function refuse(field: string, message: string, limit: string): never {
  throw new MeshError(Reason.INVALID_REQUEST, `${message}.`, { field, limit });
}

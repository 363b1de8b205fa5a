import { MeshError } from "#kernel/mesh-error.ts";
import type { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import type { Door } from "../../call/calls.ts";

/** A refusal with an HTTP status of its own, which the table of reasons has no row for (405, 408, 415). */
export class HttpRefusal extends MeshError {
  readonly status: number;
  readonly code: string;
  readonly headers: Readonly<Record<string, string>>;

  constructor(reason: Reason, status: number, code: string, message: string, headers: Record<string, string> = {}) {
    super(reason, message);
    this.status = status;
    this.code = code;
    this.headers = headers;
  }
}

export function errorStatus(error: MeshError): number {
  return error instanceof HttpRefusal ? error.status : error.row.httpStatus;
}

/** The body of an error answer and the data of an error event (OpenAI API reference, "Error codes"). */
export function errorBody(error: MeshError, door: Door | undefined): string {
  const { openAiType, openAiCode } = error.row;
  const param = error.field === "" ? null : paramName(error.field, door);
  return JSON.stringify({
    error: {
      message: param === null ? error.message : renamed(error.message, error.field, param),
      type: openAiType,
      param,
      code: error instanceof HttpRefusal ? error.code : openAiCode,
    },
  });
}

/** The same error, where a field of the prompt is at fault, with the prompt's place among several: `path` is "prompt[2]". */
export function ofPrompt(error: MeshError, path: string): MeshError {
  const field = error.field.replace(/^(?:prompt|tokens(?:\.ids)?)(?=\[|$)/, path);
  if (field === error.field) return error;
  const { reason, limit, retryAfterMs, cause } = error;
  return new MeshError(reason, renamed(error.message, error.field, field), { field, limit, retryAfterMs, cause });
}

/** A message begins with the field as the core calls it; elsewhere a name such as `tokens` is a word like any other. */
function renamed(message: string, field: string, param: string): string {
  return message.startsWith(field) ? param + message.slice(field.length) : message;
}

/** `x-should-retry` and `retry-after-ms` are what OpenAI's own clients look at first. */
export function errorHeaders(error: MeshError): Record<string, string> {
  const headers: Record<string, string> = { "x-should-retry": String(error.row.retryable) };
  if (errorStatus(error) === 401) headers["www-authenticate"] = 'Bearer realm="helixmesh"';
  if (error.retryAfterMs > 0) {
    headers["retry-after"] = String(Math.ceil(error.retryAfterMs / 1000));
    headers["retry-after-ms"] = String(Math.ceil(error.retryAfterMs));
  }
  return error instanceof HttpRefusal ? { ...headers, ...error.headers } : headers;
}

/** Fields that have another name here than in the contract, whose names the core uses. */
const paramNames: ReadonlyMap<string, string> = new Map([
  ["choice_count", "n"],
  ["labels", "metadata"],
  ["inputs", "input"],
  ["tokens", "prompt"],
  ["tokens.ids", "prompt"],
  ["max_output_tokens", "max_completion_tokens"],
  ["logprobs.top", "top_logprobs"],
  ["tool_choice.name", "tool_choice.function.name"],
  ["response_format.json_schema", "response_format.json_schema.schema"],
]);

const completionsParamNames: ReadonlyMap<string, string> = new Map([
  ...paramNames,
  ["max_output_tokens", "max_tokens"],
  ["logprobs.top", "logprobs"],
]);

function paramName(field: string, door: Door | undefined): string {
  const names = door === "openai-completions" ? completionsParamNames : paramNames;
  const path = field
    .replace(/^(chat|sampling)\./, "")
    .replace(/^(tools\[\d+\])\.(parameters|strict)(_json)?$/, "$1.function.$2");
  // `labels["a"]` is renamed like `labels`; an input is no object here, so its last word goes.
  const [, name = path, rest = ""] = /^([a-z_.]+)(\[.*)?$/s.exec(path) ?? [];
  return (names.get(name) ?? name) + (name === "inputs" ? rest.replace(/\.(text|tokens(\.ids)?)(?=\[|$)/, "") : rest);
}

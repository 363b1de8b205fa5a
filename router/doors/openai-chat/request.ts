import { create } from "@bufbuild/protobuf";
import {
  type ChatInput,
  type GenerateRequest,
  type LogprobsOptions,
  LogprobsOptionsSchema,
  type ResponseFormat,
  ResponseFormatSchema,
  SamplingSchema,
} from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { Fields, invalid, wrong } from "../openai/fields.ts";
import {
  readChoiceCount,
  readEndUser,
  readLabels,
  readModel,
  readPriority,
  readSampling,
  readStop,
  readStreamOptions,
} from "../openai/parameters.ts";
import { readMessages } from "./messages.ts";
import { readTools } from "./tools.ts";

export interface ChatRequest {
  readonly generate: GenerateRequest;
  readonly stream: boolean;
  readonly includeUsage: boolean;
  /** Repeated in the answer when the request named one. */
  readonly serviceTier: string | undefined;
  /** `parallel_tool_calls: false`: only the first tool call of an answer is passed on. */
  readonly oneToolCall: boolean;
}

/** OpenAI API reference, "Create chat completion". @throws MeshError INVALID_REQUEST, UNSUPPORTED_PARAMETER */
export function readChatRequest(body: unknown): ChatRequest {
  const fields = new Fields(body, "");
  const model = readModel(fields);
  const messages = readMessages(fields);
  const { tools, toolChoice, oneToolCall } = readTools(fields);
  const sampling = readSampling(fields);
  // By hand, since `create` works by reflection; the types of the contract say when a field is missing here.
  const chat: ChatInput = { $typeName: "helixmesh.inference.v1.ChatInput", messages, tools, toolChoice };
  const generate: GenerateRequest = {
    $typeName: "helixmesh.inference.v1.GenerateRequest",
    model,
    input: { case: "chat", value: chat },
    sampling: sampling && create(SamplingSchema, sampling),
    stop: readStop(fields),
    maxOutputTokens: readMaxTokens(fields),
    logprobs: readLogprobs(fields),
    responseFormat: readResponseFormat(fields),
    choiceCount: readChoiceCount(fields),
    priority: readPriority(fields),
    labels: readLabels(fields),
    echo: false,
  };
  const { stream, includeUsage } = readStreamOptions(fields);
  const serviceTier = fields.text("service_tier");
  readEndUser(fields);
  readWithoutEffect(fields);
  fields.end();
  return { generate, stream, includeUsage, serviceTier, oneToolCall };
}

function readMaxTokens(fields: Fields): number | undefined {
  const newer = fields.integer("max_completion_tokens", 1, 0xffff_ffff);
  const older = fields.integer("max_tokens", 1, 0xffff_ffff);
  if (newer !== undefined && older !== undefined && newer !== older) {
    throw invalid(
      "max_tokens",
      `max_tokens is ${older} and max_completion_tokens is ${newer}; send only max_completion_tokens.`,
    );
  }
  return newer ?? older;
}

function readLogprobs(fields: Fields): LogprobsOptions | undefined {
  const wanted = fields.boolean("logprobs") ?? false;
  const top = fields.integer("top_logprobs", 0, 20);
  if (!wanted && top !== undefined)
    throw invalid("top_logprobs", "top_logprobs is only allowed when logprobs is true.");
  return wanted ? create(LogprobsOptionsSchema, { top: top ?? 0 }) : undefined;
}

const formatTypes = ["text", "json_object", "json_schema"] as const;

function readResponseFormat(fields: Fields): ResponseFormat | undefined {
  const format = fields.object("response_format");
  if (!format) return undefined;
  const type = format.requiredChoice("type", formatTypes);
  const schema = type === "json_schema" ? readJsonSchema(format) : undefined;
  format.end();
  if (type === "text") return undefined;
  return create(ResponseFormatSchema, {
    format: schema === undefined ? { case: "jsonObject", value: true } : { case: "jsonSchema", value: schema },
  });
}

/** The schema as JSON text; undefined when there is only a name. It always binds, whatever `strict` says. */
function readJsonSchema(format: Fields): string | undefined {
  const named = format.required("json_schema", format.object("json_schema"), "an object with a name and a schema");
  const name = named.requiredText("name", 1, 64);
  if (!/^[\w-]+$/.test(name)) throw wrong(named.at("name"), name, "letters, digits, underscores and hyphens");
  named.text("description");
  named.boolean("strict");
  const schema = named.jsonText("schema", 65_536);
  named.end();
  return schema;
}

/** Parameters for which only those values are taken that change nothing here. */
function readWithoutEffect(fields: Fields): void {
  fields.text("safety_identifier");
  fields.text("prompt_cache_key");
  fields.noOp("service_tier", ["auto", "default"]);
  fields.noOp("store", [false]);
  fields.noOp("prompt_cache_retention", ["in_memory"]);
  fields.noOp("reasoning_effort", ["none"]);
  fields.noOp("verbosity", ["medium"]);
  const modalities = fields.list("modalities", 1, 2) ?? [];
  modalities.forEach((modality, i) => {
    if (modality !== "text") throw wrong(`modalities[${i}]`, modality, '"text"; this API answers with text alone');
  });
  fields.refuse("functions", "use tools");
  fields.refuse("function_call", "use tool_choice");
  fields.refuse("audio", "this API answers with text alone");
  fields.refuse("prediction", "remove it");
  fields.refuse("moderation", "remove it");
  fields.refuse("prompt_cache_options", "remove it; prompt prefixes are cached by themselves");
  fields.refuse("web_search_options", "remove it; there is no web search");
}

import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { type GenerateRequest, ToolChoice_Mode } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import type { Random } from "#kernel/random.ts";
import { renderChat, simVocabularySize, tokenize } from "./language.ts";
import type { SimOptions } from "./options.ts";

export interface SimRequest {
  readonly prompt: readonly number[];
  readonly seed: bigint;
  readonly maxTokens: number;
  /** Why a choice ends that reaches maxTokens. */
  readonly lengthIsNatural: boolean;
  /** Undefined when log probabilities are not wanted. */
  readonly topLogprobs: number | undefined;
}

/** Throws a MeshError that names what the simulator cannot do or cannot fit. */
export function readSimRequest(
  request: GenerateRequest,
  choiceIndex: number,
  options: SimOptions,
  random: Random,
): SimRequest {
  refuseUnsupported(request);
  const prompt = promptTokens(request.input);
  const { maxOutputTokens } = request;
  if (maxOutputTokens === 0) {
    throw new MeshError(Reason.INVALID_REQUEST, "max_output_tokens must be at least 1.", {
      field: "max_output_tokens",
    });
  }
  const contextTokens = Math.min(options.contextTokens, options.kvTokens);
  if (prompt.length + (maxOutputTokens ?? 1) > contextTokens) {
    throw new MeshError(
      Reason.CONTEXT_LENGTH_EXCEEDED,
      `The prompt has ${prompt.length} tokens and ${maxOutputTokens ?? "at least 1"} are wanted; the context holds ${contextTokens}.`,
      { field: request.input.case ?? "input", limit: `${contextTokens} tokens` },
    );
  }
  const room = contextTokens - prompt.length;
  return {
    prompt,
    seed: seedOf(request, choiceIndex, random),
    maxTokens: maxOutputTokens ?? Math.min(options.outputTokens, room),
    lengthIsNatural: maxOutputTokens === undefined && options.outputTokens <= room,
    topLogprobs: request.logprobs?.top,
  };
}

export function promptTokens(
  input: GenerateRequest["input"] | { readonly case: "text"; readonly value: string },
): readonly number[] {
  switch (input.case) {
    case "chat":
      if (input.value.messages.length > 0) return tokenize(renderChat(input.value));
      throw new MeshError(Reason.INVALID_REQUEST, "chat.messages needs at least one message.", {
        field: "chat.messages",
      });
    case "prompt":
    case "text":
      return tokenize(input.value);
    case "tokens": {
      const { ids } = input.value;
      const foreign = ids.findIndex((id) => id >= simVocabularySize);
      if (foreign < 0) return ids;
      const field = `tokens.ids[${foreign}]`;
      const limit = `${simVocabularySize} tokens`;
      const message = `${field} is ${ids[foreign]}; this model's vocabulary has ${limit}.`;
      throw new MeshError(Reason.INVALID_REQUEST, message, { field, limit });
    }
    case undefined:
      throw new MeshError(Reason.INVALID_REQUEST, "One of chat, prompt and tokens is required.", { field: "input" });
  }
}

/** Temperature 0 is greedy: one text for every seed and choice. */
function seedOf(request: GenerateRequest, choiceIndex: number, random: Random): bigint {
  if (request.sampling?.temperature === 0) return 0n;
  const seed = request.sampling?.seed ?? BigInt(Math.floor(random.next() * 2 ** 48)) + 1n;
  return seed + BigInt(choiceIndex);
}

function refuseUnsupported(request: GenerateRequest): void {
  const format = request.responseFormat?.format.case;
  if (format !== undefined && format !== "text") throw unsupported(`response_format.${toSnakeCase(format)}`);
  if (request.sampling !== undefined && Object.keys(request.sampling.logitBias).length > 0) {
    throw unsupported("sampling.logit_bias");
  }
  if ((request.logprobs?.top ?? 0) > 20) {
    throw new MeshError(Reason.INVALID_REQUEST, "logprobs.top is at most 20.", { field: "logprobs.top", limit: "20" });
  }
  if (request.input.case !== "chat") return;
  const { tools, toolChoice } = request.input.value;
  const mode = toolChoice?.mode;
  if (mode === ToolChoice_Mode.REQUIRED || mode === ToolChoice_Mode.NAMED) throw unsupported("chat.tool_choice");
  const strict = tools.findIndex((tool) => tool.strict);
  if (strict >= 0 && mode !== ToolChoice_Mode.NONE) throw unsupported(`chat.tools[${strict}].strict`);
}

function unsupported(field: string): MeshError {
  return new MeshError(Reason.UNSUPPORTED_PARAMETER, `The sim engine does not support ${field}.`, { field });
}

function toSnakeCase(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

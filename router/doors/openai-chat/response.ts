import {
  type Delta,
  FinishReason,
  type TokenLogprob,
  type ToolCallDelta,
} from "#gen/helixmesh/inference/v1/inference_pb.ts";
import type { GenerationAnswer } from "../openai/answer.ts";
import type { EventIds } from "../openai/event-id.ts";
import { systemFingerprint } from "../openai/fingerprint.ts";
import { finiteLogprob } from "../openai/logprob.ts";
import { type ChunkFormat, StreamedAnswer } from "../openai/streamed-answer.ts";
import { WholeAnswer, type WholeChoice, type WholeFormat } from "../openai/whole-answer.ts";
import type { ChatRequest } from "./request.ts";

export interface ChatAnswerOptions {
  readonly callId: string;
  readonly ids: EventIds;
  readonly request: ChatRequest;
}

export function chatAnswer(options: ChatAnswerOptions): GenerationAnswer {
  const { generate, stream, includeUsage } = options.request;
  const { model } = generate;
  const { ids } = options;
  const choiceCount = Math.max(1, generate.choiceCount);
  if (stream) return new StreamedAnswer(new ChatChunks(options), { model, calls: 1, choiceCount, includeUsage, ids });
  return new WholeAnswer(wholeChat(options), { model, calls: 1, choiceCount });
}

/** The fields that every chunk and the whole answer begin with. */
function head(
  options: ChatAnswerOptions,
  object: string,
  model: string,
  unrepeatable: boolean,
): Record<string, unknown> {
  const { serviceTier } = options.request;
  return {
    id: `chatcmpl-${options.callId}`,
    object,
    created: options.ids.created,
    model,
    // Undefined is left out of JSON.
    service_tier: serviceTier === undefined ? undefined : "default",
    system_fingerprint: systemFingerprint(model, unrepeatable),
  };
}

/** OpenAI API reference, "The chat completion chunk object". */
class ChatChunks implements ChunkFormat {
  readonly #options: ChatAnswerOptions;
  readonly #begun = new Set<number>();

  constructor(options: ChatAnswerOptions) {
    this.#options = options;
  }

  head(model: string, unrepeatable: boolean): object {
    return head(this.#options, "chat.completion.chunk", model, unrepeatable);
  }

  choices(delta: Delta, index: number): readonly object[] {
    const chunks: object[] = [];
    const toolCalls = passedOn(delta.toolCalls, this.#options.request.oneToolCall);
    if (!this.#begun.has(index)) {
      this.#begun.add(index);
      const content = delta.text === "" && toolCalls.length > 0 ? null : "";
      chunks.push(choiceOf(index, { role: "assistant", content, refusal: null }));
    }
    if (delta.logprobs.length > 0) {
      chunks.push({ ...choiceOf(index, { content: delta.text }), logprobs: logprobsOf(delta.logprobs) });
    } else if (delta.text !== "") {
      chunks.push(this.textChoice(index, delta.text));
    }
    if (toolCalls.length > 0) chunks.push(choiceOf(index, { tool_calls: toolCalls.map(toolCallPart) }));
    const finish_reason = finishReasonOf(delta.finishReason);
    if (finish_reason !== null) chunks.push({ ...choiceOf(index, {}), finish_reason });
    return chunks;
  }

  textChoice(index: number, text: string): object {
    return choiceOf(index, { content: text });
  }
}

function choiceOf(index: number, delta: object): object {
  return { index, delta, logprobs: null, finish_reason: null };
}

/** OpenAI API reference, "The chat completion object". */
function wholeChat(options: ChatAnswerOptions): WholeFormat {
  const { generate, oneToolCall } = options.request;
  return {
    head: (model, unrepeatable) => head(options, "chat.completion", model, unrepeatable),
    choice(choice, index) {
      const message = messageOf(choice, oneToolCall);
      const logprobs = generate.logprobs ? JSON.stringify(logprobsOf(choice.logprobs)) : "null";
      const finishReason = finishReasonOf(choice.finishReason) ?? "stop";
      return `{"index":${index},"message":${message},"logprobs":${logprobs},"finish_reason":"${finishReason}"}`;
    },
  };
}

interface WholeToolCall {
  id: string;
  name: string;
  arguments: string;
}

function joinToolCalls(parts: readonly ToolCallDelta[]): readonly WholeToolCall[] {
  if (parts.length === 0) return [];
  const calls = new Map<number, WholeToolCall>();
  for (const part of parts) {
    const call = calls.get(part.index) ?? { id: "", name: "", arguments: "" };
    calls.set(part.index, call);
    call.id ||= part.id;
    call.name ||= part.name;
    call.arguments += part.argumentsJson;
  }
  return [...calls.entries()].sort(([a], [b]) => a - b).map(([, call]) => call);
}

/** As JSON: most are a text and nothing else. */
function messageOf(choice: WholeChoice, oneToolCall: boolean): string {
  const calls = joinToolCalls(passedOn(choice.toolCalls, oneToolCall));
  const content = choice.text === "" && calls.length > 0 ? "null" : JSON.stringify(choice.text);
  const text = `"role":"assistant","content":${content},"refusal":null,"annotations":[]`;
  if (calls.length === 0) return `{${text}}`;
  const called = calls.map(({ id, name, arguments: json }) => ({
    id,
    type: "function",
    function: { name, arguments: json },
  }));
  return `{${text},"tool_calls":${JSON.stringify(called)}}`;
}

function passedOn(parts: readonly ToolCallDelta[], oneToolCall: boolean): readonly ToolCallDelta[] {
  return oneToolCall ? parts.filter((part) => part.index === 0) : parts;
}

/** The first part of a call carries its id, type and name, the others only arguments. */
function toolCallPart(part: ToolCallDelta): object {
  if (part.id === "") return { index: part.index, function: { arguments: part.argumentsJson } };
  const called = { name: part.name, arguments: part.argumentsJson };
  return { index: part.index, id: part.id, type: "function", function: called };
}

function logprobsOf(tokens: readonly TokenLogprob[]): object {
  return {
    content: tokens.map((token) => ({ ...logprobOf(token), top_logprobs: token.top.map(logprobOf) })),
    refusal: null,
  };
}

function logprobOf(token: TokenLogprob): object {
  return { token: token.token, logprob: finiteLogprob(token.logprob), bytes: [...token.tokenBytes] };
}

function finishReasonOf(reason: FinishReason): string | null {
  switch (reason) {
    case FinishReason.UNSPECIFIED:
      return null;
    case FinishReason.LENGTH:
      return "length";
    case FinishReason.TOOL_CALLS:
      return "tool_calls";
    default:
      return "stop";
  }
}

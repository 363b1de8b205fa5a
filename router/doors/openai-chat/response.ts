import {
  type Delta,
  FinishReason,
  type GenerateResponse,
  type TokenLogprob,
  type ToolCallDelta,
} from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { systemFingerprint } from "../openai/fingerprint.ts";
import type { GenerationAnswer } from "../openai/generation.ts";
import { finiteLogprob } from "../openai/logprob.ts";
import { UsageSum } from "../openai/usage.ts";
import type { ChatRequest } from "./request.ts";

export interface ChatAnswerOptions {
  readonly callId: string;
  /** Unix seconds. */
  readonly created: number;
  readonly request: ChatRequest;
}

export function chatAnswer(options: ChatAnswerOptions): GenerationAnswer {
  return options.request.stream ? new StreamedChat(options) : new WholeChat(options);
}

/** The fields that every chunk and the whole answer begin with. */
function head(options: ChatAnswerOptions, object: string, model: string): Record<string, unknown> {
  const { serviceTier } = options.request;
  return {
    id: `chatcmpl-${options.callId}`,
    object,
    created: options.created,
    model,
    ...(serviceTier === undefined ? {} : { service_tier: "default" }),
    system_fingerprint: systemFingerprint(model),
  };
}

/** OpenAI API reference, "The chat completion chunk object". */
class StreamedChat implements GenerationAnswer {
  readonly #options: ChatAnswerOptions;
  readonly #usage = new UsageSum();
  readonly #begun = new Set<number>();
  /** All of a chunk but its choices and usage, formatted once. */
  #head = "";
  readonly #tail: string;

  constructor(options: ChatAnswerOptions) {
    this.#options = options;
    this.#tail = options.request.includeUsage ? ',"usage":null}\n\n' : "}\n\n";
    this.#setModel(options.request.generate.model);
  }

  take({ event }: GenerateResponse): string {
    switch (event.case) {
      case "started":
        this.#setModel(event.value.model);
        return "";
      case "delta":
        return this.#delta(event.value);
      case "finished":
        this.#usage.add(event.value.usage);
        return "";
      case undefined:
        // An event that a newer agent sent.
        return "";
    }
  }

  end(): string {
    const usage = this.#options.request.includeUsage
      ? `${this.#head}[],"usage":${JSON.stringify(this.#usage)}}\n\n`
      : "";
    return `${usage}data: [DONE]\n\n`;
  }

  #setModel(model: string): void {
    const text = JSON.stringify(head(this.#options, "chat.completion.chunk", model));
    this.#head = `data: ${text.slice(0, -1)},"choices":`;
  }

  #delta(delta: Delta): string {
    const index = delta.choiceIndex;
    const toolCalls = passedOn(delta.toolCalls, this.#options.request.oneToolCall);
    let out = "";
    if (!this.#begun.has(index)) {
      this.#begun.add(index);
      const content = delta.text === "" && toolCalls.length > 0 ? null : "";
      out += this.#chunk(index, { role: "assistant", content, refusal: null }, null, null);
    }
    if (delta.text !== "" || delta.logprobs.length > 0) {
      const logprobs = delta.logprobs.length === 0 ? null : logprobsOf(delta.logprobs);
      out += this.#chunk(index, { content: delta.text }, logprobs, null);
    }
    if (toolCalls.length > 0) out += this.#chunk(index, { tool_calls: toolCalls.map(toolCallPart) }, null, null);
    const reason = finishReasonOf(delta.finishReason);
    if (reason !== null) out += this.#chunk(index, {}, null, reason);
    return out;
  }

  #chunk(index: number, delta: object, logprobs: object | null, finishReason: string | null): string {
    const choice = JSON.stringify({ index, delta, logprobs, finish_reason: finishReason });
    return `${this.#head}[${choice}]${this.#tail}`;
  }
}

interface WholeToolCall {
  id: string;
  name: string;
  arguments: string;
}

interface WholeChoice {
  text: string;
  readonly logprobs: TokenLogprob[];
  readonly toolCalls: Map<number, WholeToolCall>;
  finishReason: string | null;
}

/** OpenAI API reference, "The chat completion object". */
class WholeChat implements GenerationAnswer {
  readonly #options: ChatAnswerOptions;
  readonly #usage = new UsageSum();
  readonly #choices: WholeChoice[];
  #model: string;

  constructor(options: ChatAnswerOptions) {
    this.#options = options;
    const { generate } = options.request;
    this.#model = generate.model;
    this.#choices = Array.from({ length: Math.max(1, generate.choiceCount) }, () => ({
      text: "",
      logprobs: [],
      toolCalls: new Map(),
      finishReason: null,
    }));
  }

  take({ event }: GenerateResponse): string {
    if (event.case === "started") this.#model = event.value.model;
    else if (event.case === "delta") this.#delta(event.value);
    else if (event.case === "finished") this.#usage.add(event.value.usage);
    return "";
  }

  end(): string {
    return JSON.stringify({
      ...head(this.#options, "chat.completion", this.#model),
      choices: this.#choices.map((choice, index) => ({
        index,
        message: messageOf(choice),
        logprobs: this.#options.request.generate.logprobs ? logprobsOf(choice.logprobs) : null,
        finish_reason: choice.finishReason ?? "stop",
      })),
      usage: this.#usage,
    });
  }

  #delta(delta: Delta): void {
    const choice = this.#choices[delta.choiceIndex];
    if (!choice) return;
    choice.text += delta.text;
    choice.logprobs.push(...delta.logprobs);
    for (const part of passedOn(delta.toolCalls, this.#options.request.oneToolCall)) {
      const call = choice.toolCalls.get(part.index) ?? { id: "", name: "", arguments: "" };
      choice.toolCalls.set(part.index, call);
      call.id ||= part.id;
      call.name ||= part.name;
      call.arguments += part.argumentsJson;
    }
    choice.finishReason = finishReasonOf(delta.finishReason) ?? choice.finishReason;
  }
}

function messageOf(choice: WholeChoice): object {
  const calls = [...choice.toolCalls.entries()].sort(([a], [b]) => a - b);
  return {
    role: "assistant",
    content: choice.text === "" && calls.length > 0 ? null : choice.text,
    refusal: null,
    annotations: [],
    ...(calls.length === 0
      ? {}
      : {
          tool_calls: calls.map(([, call]) => ({
            id: call.id,
            type: "function",
            function: { name: call.name, arguments: call.arguments },
          })),
        }),
  };
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

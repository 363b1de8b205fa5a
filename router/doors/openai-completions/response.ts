import {
  type Delta,
  FinishReason,
  type GenerateResponse,
  type TokenLogprob,
} from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { systemFingerprint } from "../openai/fingerprint.ts";
import type { GenerationAnswer } from "../openai/generation.ts";
import { finiteLogprob } from "../openai/logprob.ts";
import { UsageSum } from "../openai/usage.ts";
import type { CompletionRequest } from "./request.ts";

export interface CompletionAnswerOptions {
  readonly callId: string;
  /** Unix seconds. */
  readonly created: number;
  readonly request: CompletionRequest;
}

export function completionAnswer(options: CompletionAnswerOptions): GenerationAnswer {
  return options.request.stream ? new StreamedCompletion(options) : new WholeCompletion(options);
}

function head(options: CompletionAnswerOptions, model: string): Record<string, unknown> {
  return {
    id: `cmpl-${options.callId}`,
    object: "text_completion",
    created: options.created,
    model,
    system_fingerprint: systemFingerprint(model),
  };
}

/** Chunks have the form of the whole answer (OpenAI API reference, "The completion object"). */
class StreamedCompletion implements GenerationAnswer {
  readonly #options: CompletionAnswerOptions;
  readonly #usage = new UsageSum();
  /** How far each choice's tokens reach, for text_offset. */
  readonly #offsets = new Map<number, number>();
  #head = "";
  readonly #tail: string;

  constructor(options: CompletionAnswerOptions) {
    this.#options = options;
    this.#tail = options.request.includeUsage ? ',"usage":null}\n\n' : "}\n\n";
    this.#setModel(options.request.generates[0]?.model ?? "");
  }

  take({ event }: GenerateResponse, call: number): string {
    switch (event.case) {
      case "started":
        this.#setModel(event.value.model);
        return "";
      case "delta":
        return this.#delta(event.value, call);
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
    this.#head = `data: ${JSON.stringify(head(this.#options, model)).slice(0, -1)},"choices":`;
  }

  #delta(delta: Delta, call: number): string {
    const index = call * this.#options.request.choiceCount + delta.choiceIndex;
    const finish_reason = finishReasonOf(delta.finishReason);
    if (delta.text === "" && delta.logprobs.length === 0 && finish_reason === null) return "";
    const offset = this.#offsets.get(index) ?? 0;
    const logprobs = delta.logprobs.length === 0 ? null : logprobsOf(delta.logprobs, offset);
    if (logprobs) this.#offsets.set(index, logprobs.end);
    const choice = { text: delta.text, index, logprobs: logprobs?.json ?? null, finish_reason };
    return `${this.#head}[${JSON.stringify(choice)}]${this.#tail}`;
  }
}

interface WholeChoice {
  text: string;
  readonly logprobs: TokenLogprob[];
  finishReason: string | null;
}

class WholeCompletion implements GenerationAnswer {
  readonly #options: CompletionAnswerOptions;
  readonly #usage = new UsageSum();
  readonly #choices: WholeChoice[];
  #model: string;

  constructor(options: CompletionAnswerOptions) {
    this.#options = options;
    const { generates, choiceCount } = options.request;
    this.#model = generates[0]?.model ?? "";
    const length = generates.length * choiceCount;
    this.#choices = Array.from({ length }, () => ({ text: "", logprobs: [], finishReason: null }));
  }

  take({ event }: GenerateResponse, call: number): string {
    if (event.case === "started") this.#model = event.value.model;
    else if (event.case === "delta") this.#delta(event.value, call);
    else if (event.case === "finished") this.#usage.add(event.value.usage);
    return "";
  }

  end(): string {
    const wantsLogprobs = this.#options.request.generates[0]?.logprobs !== undefined;
    return JSON.stringify({
      ...head(this.#options, this.#model),
      choices: this.#choices.map((choice, index) => ({
        text: choice.text,
        index,
        logprobs: wantsLogprobs ? logprobsOf(choice.logprobs, 0).json : null,
        finish_reason: choice.finishReason ?? "stop",
      })),
      usage: this.#usage,
    });
  }

  #delta(delta: Delta, call: number): void {
    const choice = this.#choices[call * this.#options.request.choiceCount + delta.choiceIndex];
    if (!choice) return;
    choice.text += delta.text;
    choice.logprobs.push(...delta.logprobs);
    choice.finishReason = finishReasonOf(delta.finishReason) ?? choice.finishReason;
  }
}

/** `text_offset` counts UTF-16 code units from the start of the choice's text. */
function logprobsOf(tokens: readonly TokenLogprob[], from: number): { readonly json: object; readonly end: number } {
  let end = from;
  const text_offset = tokens.map((token) => {
    const offset = end;
    end += token.token.length;
    return offset;
  });
  const json = {
    tokens: tokens.map((token) => token.token),
    token_logprobs: tokens.map((token) => finiteLogprob(token.logprob)),
    // fromEntries defines properties: a token `__proto__` is a key like any other.
    top_logprobs: tokens.map((token) =>
      Object.fromEntries(token.top.map((top) => [top.token, finiteLogprob(top.logprob)])),
    ),
    text_offset,
  };
  return { json, end };
}

function finishReasonOf(reason: FinishReason): string | null {
  if (reason === FinishReason.UNSPECIFIED) return null;
  return reason === FinishReason.LENGTH ? "length" : "stop";
}

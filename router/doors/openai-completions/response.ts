import { type Delta, FinishReason, type TokenLogprob } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import type { GenerationAnswer } from "../openai/answer.ts";
import type { EventIds } from "../openai/event-id.ts";
import { systemFingerprint } from "../openai/fingerprint.ts";
import { finiteLogprob } from "../openai/logprob.ts";
import { type ChunkFormat, StreamedAnswer } from "../openai/streamed-answer.ts";
import { WholeAnswer, type WholeFormat } from "../openai/whole-answer.ts";
import type { CompletionRequest } from "./request.ts";

export interface CompletionAnswerOptions {
  readonly callId: string;
  readonly ids: EventIds;
  readonly request: CompletionRequest;
}

export function completionAnswer(options: CompletionAnswerOptions): GenerationAnswer {
  const { generates, choiceCount, stream, includeUsage } = options.request;
  const common = { model: generates[0]?.model ?? "", calls: generates.length, choiceCount };
  if (stream) return new StreamedAnswer(new CompletionChunks(options), { ...common, includeUsage, ids: options.ids });
  return new WholeAnswer(wholeCompletion(options), common);
}

function head(options: CompletionAnswerOptions, model: string, unrepeatable: boolean): Record<string, unknown> {
  return {
    id: `cmpl-${options.callId}`,
    object: "text_completion",
    created: options.ids.created,
    model,
    system_fingerprint: systemFingerprint(model, unrepeatable),
  };
}

/** Chunks have the form of the whole answer (OpenAI API reference, "The completion object"). */
class CompletionChunks implements ChunkFormat {
  readonly #options: CompletionAnswerOptions;
  /** How far each choice's tokens reach, for text_offset. */
  readonly #offsets = new Map<number, number>();

  constructor(options: CompletionAnswerOptions) {
    this.#options = options;
  }

  head(model: string, unrepeatable: boolean): object {
    return head(this.#options, model, unrepeatable);
  }

  choices(delta: Delta, index: number): readonly object[] {
    const finish_reason = finishReasonOf(delta.finishReason);
    if (delta.text === "" && delta.logprobs.length === 0 && finish_reason === null) return [];
    const choice = { ...this.textChoice(index, delta.text), finish_reason };
    if (delta.logprobs.length === 0) return [choice];
    const { json, end } = logprobsOf(delta.logprobs, this.#offsets.get(index) ?? 0);
    this.#offsets.set(index, end);
    return [{ ...choice, logprobs: json }];
  }

  textChoice(index: number, text: string): object {
    return { text, index, logprobs: null, finish_reason: null };
  }
}

function wholeCompletion(options: CompletionAnswerOptions): WholeFormat {
  const wantsLogprobs = options.request.generates[0]?.logprobs !== undefined;
  return {
    head: (model, unrepeatable) => head(options, model, unrepeatable),
    choice: (choice, index) =>
      JSON.stringify({
        text: choice.text,
        index,
        logprobs: wantsLogprobs ? logprobsOf(choice.logprobs, 0).json : null,
        finish_reason: finishReasonOf(choice.finishReason) ?? "stop",
      }),
  };
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

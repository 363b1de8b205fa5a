import type { Usage } from "#gen/helixmesh/type/v1/type_pb.ts";

/** Tokens over all calls that one answer needed. */
export class UsageSum {
  #prompt = 0;
  #cached = 0;
  #completion = 0;

  add(usage: Usage | undefined): void {
    this.#prompt += usage?.promptTokens ?? 0;
    this.#cached += usage?.cachedTokens ?? 0;
    this.#completion += usage?.completionTokens ?? 0;
  }

  /** The `usage` object of completions; what we never have is 0, as OpenAI sends it. */
  toJSON(): object {
    return {
      prompt_tokens: this.#prompt,
      completion_tokens: this.#completion,
      total_tokens: this.#prompt + this.#completion,
      prompt_tokens_details: { cached_tokens: this.#cached, audio_tokens: 0 },
      completion_tokens_details: {
        reasoning_tokens: 0,
        audio_tokens: 0,
        accepted_prediction_tokens: 0,
        rejected_prediction_tokens: 0,
      },
    };
  }
}

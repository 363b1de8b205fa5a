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

  /** The `usage` object of completions, as JSON; what we never have is 0, as OpenAI sends it. */
  json(): string {
    const total = this.#prompt + this.#completion;
    const counts = `"prompt_tokens":${this.#prompt},"completion_tokens":${this.#completion},"total_tokens":${total}`;
    const prompt = `"prompt_tokens_details":{"cached_tokens":${this.#cached},"audio_tokens":0}`;
    return `{${counts},${prompt},${completionDetails}}`;
  }
}

const completionDetails =
  '"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}';

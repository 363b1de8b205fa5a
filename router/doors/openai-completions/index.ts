import type { Endpoint, Exchange } from "../openai/exchange.ts";
import { answerGeneration } from "../openai/generation.ts";
import { readCompletionRequest } from "./request.ts";
import { completionAnswer } from "./response.ts";

/** `POST /v1/completions` */
export const completions: Endpoint = {
  door: "openai-completions",
  async answer(exchange: Exchange): Promise<void> {
    const { body, context, deps } = exchange;
    const request = readCompletionRequest(body);
    const created = Math.floor(deps.clock.nowMs() / 1000);
    const answer = completionAnswer({ callId: context.callId, created, request });
    await answerGeneration(exchange, request.generates, request.stream, answer);
  },
};

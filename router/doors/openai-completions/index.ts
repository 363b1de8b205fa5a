import { eventIds } from "../openai/event-id.ts";
import type { Endpoint, Exchange } from "../openai/exchange.ts";
import { answerGeneration } from "../openai/generation.ts";
import { readCompletionRequest } from "./request.ts";
import { completionAnswer } from "./response.ts";

/** `POST /v1/completions` */
export const completions: Endpoint = {
  door: "openai-completions",
  answer(exchange: Exchange): void {
    const { body, context } = exchange;
    const request = readCompletionRequest(body);
    const ids = eventIds(exchange, request.stream, request.generates.length);
    const answer = completionAnswer({ callId: context.callId, ids, request });
    answerGeneration(exchange, request.generates, request.stream, answer, request.promptPaths);
  },
};

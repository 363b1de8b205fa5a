import { eventIds } from "../openai/event-id.ts";
import type { Endpoint, Exchange } from "../openai/exchange.ts";
import { answerGeneration } from "../openai/generation.ts";
import { readChatRequest } from "./request.ts";
import { chatAnswer } from "./response.ts";

/** `POST /v1/chat/completions` */
export const chatCompletions: Endpoint = {
  door: "openai-chat",
  answer(exchange: Exchange): void {
    const { body, context } = exchange;
    const request = readChatRequest(body);
    const ids = eventIds(exchange, request.stream, 1);
    const answer = chatAnswer({ callId: context.callId, ids, request });
    answerGeneration(exchange, [request.generate], request.stream, answer);
  },
};

import type { Endpoint, Exchange } from "../openai/exchange.ts";
import { answerGeneration } from "../openai/generation.ts";
import { readChatRequest } from "./request.ts";
import { chatAnswer } from "./response.ts";

/** `POST /v1/chat/completions` */
export const chatCompletions: Endpoint = {
  door: "openai-chat",
  async answer(exchange: Exchange): Promise<void> {
    const { body, context, deps } = exchange;
    const request = readChatRequest(body);
    const created = Math.floor(deps.clock.nowMs() / 1000);
    const answer = chatAnswer({ callId: context.callId, created, request });
    await answerGeneration(exchange, [request.generate], request.stream, answer);
  },
};

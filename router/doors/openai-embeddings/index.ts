import type { Endpoint, Exchange } from "../openai/exchange.ts";
import { readEmbeddingsRequest } from "./request.ts";
import { embeddingsAnswer } from "./response.ts";

/** `POST /v1/embeddings` */
export const embeddings: Endpoint = {
  door: "openai-embeddings",
  async answer({ body, context, deps, reply, signal }: Exchange): Promise<void> {
    const request = readEmbeddingsRequest(body);
    const response = await deps.calls.embed(request.embed, context, signal);
    reply.json(200, embeddingsAnswer(response, request));
  },
};

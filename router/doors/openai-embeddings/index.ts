import type { Endpoint, Exchange } from "../openai/exchange.ts";
import { readEmbeddingsRequest } from "./request.ts";
import { embeddingsAnswer } from "./response.ts";

/** `POST /v1/embeddings` */
export const embeddings: Endpoint = {
  door: "openai-embeddings",
  answer({ body, context, deps, reply, fail }: Exchange): void {
    const request = readEmbeddingsRequest(body);
    const gone = new AbortController();
    reply.onGone = () => gone.abort();
    if (reply.gone) gone.abort();
    deps.calls
      .embed(request.embed, context, gone.signal)
      .then((response) => reply.json(200, embeddingsAnswer(response, request)))
      .catch(fail);
  },
};

import { create } from "@bufbuild/protobuf";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import {
  type EmbedInput,
  type EmbedRequest,
  type EmbedResponse,
  EmbedResponseSchema,
} from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import type { AddonContext, NativeModel } from "./native.ts";
import type { Planner } from "./plan.ts";
import type { Vocabulary } from "./vocabulary.ts";

export interface EmbedderParts {
  readonly model: NativeModel;
  readonly vocabulary: Vocabulary;
  readonly planner: Planner;
  readonly contextTokens: number;
  readonly threads: number;
}

/**
 * Vectors of unit length, pooled as the model's file says; a model made for chat names no pooling, and the state behind
 * its last token is taken, which has seen all the others. The context is made with the first request.
 */
export class Embedder {
  readonly #parts: EmbedderParts;
  #context: Promise<AddonContext> | undefined;
  #last: Promise<unknown> = Promise.resolve();

  constructor(parts: EmbedderParts) {
    this.#parts = parts;
  }

  /** One request after the other: the context holds one sequence. */
  embed(request: EmbedRequest): Promise<EmbedResponse> {
    const answer = this.#last.then(() => this.#embed(request));
    // Its caller hears of a failure; the next request must only wait for the end.
    this.#last = answer.catch(() => undefined);
    return answer;
  }

  async #embed(request: EmbedRequest): Promise<EmbedResponse> {
    if (request.inputs.length === 0) {
      throw new MeshError(Reason.INVALID_REQUEST, "inputs is empty; send at least one.", { field: "inputs" });
    }
    const inputs = request.inputs.map((input, index) => this.#tokens(input, `inputs[${index}]`));
    const { model, contextTokens, threads } = this.#parts;
    this.#context ??= model.openEmbedding(contextTokens, threads);
    const context = await this.#context;
    const embeddings: { values: number[] }[] = [];
    for (const tokens of inputs) embeddings.push({ values: await vectorOf(context, tokens) });
    const promptTokens = inputs.reduce((sum, tokens) => sum + tokens.length, 0);
    return create(EmbedResponseSchema, { embeddings, usage: { promptTokens }, model: request.model });
  }

  #tokens(input: EmbedInput, field: string): Uint32Array {
    const { vocabulary, planner, contextTokens } = this.#parts;
    const tokens = this.#rawTokens(input, field, vocabulary, planner);
    if (tokens.length <= contextTokens) return tokens;
    const message = `${field} has ${tokens.length} tokens; this model embeds at most ${contextTokens} tokens. Split it.`;
    throw new MeshError(Reason.CONTEXT_LENGTH_EXCEEDED, message, { field, limit: `${contextTokens} tokens` });
  }

  #rawTokens(input: EmbedInput, field: string, vocabulary: Vocabulary, planner: Planner): Uint32Array {
    if (input.input.case === "tokens") return planner.tokenIds(input.input.value, `${field}.tokens.ids`);
    if (input.input.case === "text" && input.input.value !== "") return vocabulary.tokenize(input.input.value);
    throw new MeshError(Reason.INVALID_REQUEST, `${field} is empty; send text or token ids.`, { field });
  }
}

async function vectorOf(context: AddonContext, tokens: Uint32Array): Promise<number[]> {
  context.disposeSequence(0);
  context.initBatch(tokens.length);
  context.addToBatch(0, 0, tokens, Uint32Array.of(tokens.length - 1));
  await context.decodeBatch();
  const vector = context.getEmbedding(tokens.length);
  const length = Math.sqrt(vector.reduce((sum, value) => sum + value * value, 0));
  return Array.from(vector, (value) => (length > 0 ? value / length : 0));
}

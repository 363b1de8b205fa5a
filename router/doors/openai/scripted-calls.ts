import { type MessageInitShape, create, toBinary } from "@bufbuild/protobuf";
import {
  type CountTokensRequest,
  type CountTokensResponse,
  CountTokensResponseSchema,
  type EmbedRequest,
  type EmbedResponse,
  EmbedResponseSchema,
  type GenerateRequest,
  GenerateResponseSchema,
  type ModelInfo,
} from "#gen/helixmesh/inference/v1/inference_pb.ts";
import type { CallContext, Calls } from "../../call/calls.ts";

export type ScriptedEvent = Exclude<MessageInitShape<typeof GenerateResponseSchema>["event"], undefined>;
export type GenerateScript = (request: GenerateRequest, context: CallContext) => AsyncIterable<ScriptedEvent>;
export type EmbedScript = (request: EmbedRequest) => MessageInitShape<typeof EmbedResponseSchema>;

/** A `Calls` for tests: answers by script and keeps what it was asked. */
export class ScriptedCalls implements Calls {
  generateScript: GenerateScript = async function* () {};
  embedScript: EmbedScript = () => ({});
  models: ModelInfo[] = [];
  readonly generated: GenerateRequest[] = [];
  readonly embedded: EmbedRequest[] = [];
  readonly contexts: CallContext[] = [];

  async *generate(request: GenerateRequest, context: CallContext): AsyncIterable<Uint8Array> {
    this.generated.push(request);
    this.contexts.push(context);
    for await (const event of this.generateScript(request, context)) yield encodeEvent(event);
  }

  embed(request: EmbedRequest, context: CallContext): Promise<EmbedResponse> {
    this.embedded.push(request);
    this.contexts.push(context);
    return Promise.resolve(create(EmbedResponseSchema, this.embedScript(request)));
  }

  countTokens(_request: CountTokensRequest, _context: CallContext): Promise<CountTokensResponse> {
    return Promise.resolve(create(CountTokensResponseSchema));
  }

  listModels(): readonly ModelInfo[] {
    return this.models;
  }
}

function encodeEvent(event: ScriptedEvent): Uint8Array {
  return toBinary(GenerateResponseSchema, create(GenerateResponseSchema, { event }));
}

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
import { MeshError } from "#kernel/mesh-error.ts";
import type { CallContext, Calls, GenerateAsked } from "../../call/calls.ts";
import type { ResponseSink, RunningCall } from "../../call/sink.ts";

export type ScriptedEvent = Exclude<MessageInitShape<typeof GenerateResponseSchema>["event"], undefined>;
/** `signal` aborts when the door aborts the call. */
export type ScriptedContext = CallContext & { readonly signal: AbortSignal };
export type GenerateScript = (request: GenerateRequest, context: ScriptedContext) => AsyncIterable<ScriptedEvent>;
export type EmbedScript = (request: EmbedRequest) => MessageInitShape<typeof EmbedResponseSchema>;

/** A `Calls` for tests: answers by script and keeps what it was asked. */
export class ScriptedCalls implements Calls {
  generateScript: GenerateScript = async function* () {};
  embedScript: EmbedScript = () => ({});
  models: ModelInfo[] = [];
  readonly generated: GenerateRequest[] = [];
  readonly embedded: EmbedRequest[] = [];
  readonly contexts: CallContext[] = [];

  generate({ request }: GenerateAsked, context: CallContext, sink: ResponseSink): RunningCall {
    this.generated.push(request);
    this.contexts.push(context);
    const gone = new AbortController();
    let resume = (): void => {};
    const run = async (): Promise<void> => {
      for await (const event of this.generateScript(request, { ...context, signal: gone.signal })) {
        if (gone.signal.aborted) return;
        const bytes = encodeEvent(event);
        if (sink.writeMessage(bytes, 0, bytes.length)) continue;
        await new Promise<void>((resolve) => {
          resume = resolve;
        });
      }
      sink.finish();
    };
    run().catch((error: unknown) => sink.fail(MeshError.from(error)));
    return {
      resume: () => resume(),
      abort(reason) {
        gone.abort(reason);
        resume();
      },
    };
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

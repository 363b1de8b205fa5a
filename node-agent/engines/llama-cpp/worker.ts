/** The child process that holds the weights. A native crash ends this process and nothing else. */
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import {
  CountTokensRequestSchema,
  CountTokensResponseSchema,
  EmbedRequestSchema,
  EmbedResponseSchema,
  GenerateRequestSchema,
} from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { EngineCapabilitiesSchema } from "#gen/helixmesh/type/v1/type_pb.ts";
import { systemClock } from "#kernel/clock.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { systemRandom } from "#kernel/random.ts";
import { ChatTemplate } from "./chat-template.ts";
import { DecodeLoop } from "./decode-loop.ts";
import { Embedder } from "./embedder.ts";
import type { PrefixOptions } from "../prefix-news.ts";
import { LanePrefixes } from "./lane-prefixes.ts";
import type { LlamaCppOptions } from "./llama-cpp-options.ts";
import { type CallCommand, type FromWorker, type ToWorker, toWireError } from "./messages.ts";
import { type AddonContext, NativeModel } from "./native.ts";
import { Planner } from "./plan.ts";
import { Vocabulary } from "./vocabulary.ts";

/** A loaded model at work. */
interface Ready {
  readonly model: NativeModel;
  readonly planner: Planner;
  readonly loop: DecodeLoop;
  readonly embedder: Embedder;
  readonly capabilities: Uint8Array;
}

let ready: Ready | undefined;

/** The agent is gone: nobody waits for anything. */
process.on("disconnect", () => process.exit(0));
/** Ctrl-C reaches the whole process group; the agent decides when this process ends. */
process.on("SIGINT", () => undefined);
process.on("message", (message) => {
  receive(message as ToWorker).catch((error: unknown) => fail(error));
});

async function receive(message: ToWorker): Promise<void> {
  switch (message.kind) {
    case "load":
      try {
        ready = await load(message.options, message.prefixes);
        send({ kind: "loaded", capabilities: ready.capabilities });
      } catch (error) {
        send({ kind: "refused-load", error: toWireError(loadError(error)) });
      }
      return;
    case "calls":
      for (const command of message.calls) if (ready) call(ready, command);
      return;
    case "embed":
      return answer(message.id, async ({ embedder }) => {
        const response = await embedder.embed(fromBinary(EmbedRequestSchema, message.request));
        return toBinary(EmbedResponseSchema, response);
      });
    case "count":
      return answer(message.id, async ({ planner }) => {
        const tokenIds = planner.promptTokens(fromBinary(CountTokensRequestSchema, message.request).input);
        const response = create(CountTokensResponseSchema, {
          promptTokens: tokenIds.length,
          tokenIds: Array.from(tokenIds),
        });
        return toBinary(CountTokensResponseSchema, response);
      });
    case "close":
      await ready?.model.close();
      process.exit(0);
  }
}

function call({ planner, loop }: Ready, command: CallCommand): void {
  if (command.kind === "cancel") return loop.cancel(command.id);
  try {
    const request = fromBinary(GenerateRequestSchema, command.request);
    loop.submit(command.id, planner.plan(request, command.choiceIndex, command.generated));
  } catch (error) {
    loop.refuse(command.id, MeshError.from(error));
  }
}

async function answer(id: number, make: (ready: Ready) => Promise<Uint8Array>): Promise<void> {
  try {
    if (!ready) throw new MeshError(Reason.NO_READY_REPLICA, "The engine is still loading; try again.");
    send({ kind: "answer", id, response: await make(ready) });
  } catch (error) {
    send({ kind: "refused", id, error: toWireError(error) });
  }
}

async function load(options: LlamaCppOptions, told: PrefixOptions | undefined): Promise<Ready> {
  const model = await NativeModel.load({
    path: options.modelPath,
    gpu: options.gpu,
    gpuLayers: options.gpuLayers,
    onProgress: (share) => send({ kind: "progress", state: "loading", share }),
    onLog: (level, message) => send({ kind: "log", level, message }),
  });
  const vocabulary = new Vocabulary(model);
  const template = new ChatTemplate({
    text: model.chatTemplate,
    bosText: model.bosText,
    eosText: model.eosText,
    controlTexts: vocabulary.controlTexts(),
  });
  const contextTokens = options.contextTokens || model.trainedContext;
  const { batchTokens, threads, flashAttention } = options;
  const parallelSequences = model.embedsOnly ? 1 : options.parallelSequences;
  const context = await model
    .openContext({ sequences: parallelSequences, contextTokens, batchTokens, threads, flashAttention })
    .catch((error: unknown) => {
      throw contextError(error, parallelSequences, contextTokens);
    });
  send({ kind: "progress", state: "warming", share: 0 });
  if (!model.embedsOnly) await warm(context, vocabulary);
  send({ kind: "progress", state: "warming", share: 1 });

  const prefixes = told && new LanePrefixes(parallelSequences, told);
  const planner = new Planner({ prefixes, model, vocabulary, template, contextTokens, random: systemRandom });
  const embeddingTokens = Math.min(contextTokens, options.embeddingTokens);
  const capabilities = create(EngineCapabilitiesSchema, {
    generate: !model.embedsOnly,
    embed: true,
    grammar: true,
    logprobs: true,
    chat: template.exists,
    tools: template.rendersTools,
    seed: true,
    seedByPosition: true,
    contextTokens,
    parallelSequences,
    embeddingDimensions: model.addon.getEmbeddingVectorSize(),
  });
  return {
    model,
    planner,
    loop: new DecodeLoop({
      model,
      context,
      vocabulary,
      parallelSequences,
      contextTokens,
      batchTokens,
      inOrder: options.samplingThreads === 1,
      clock: systemClock,
      onStep: (events, load) => send({ kind: "step", events, load }),
      prefixes,
      onPrefixes: (news) => send({ kind: "prefixes", news }),
      onBroken: fail,
    }),
    embedder: new Embedder({ model, vocabulary, planner, contextTokens: embeddingTokens, threads }),
    capabilities: toBinary(EngineCapabilitiesSchema, capabilities),
  };
}

/** The first evaluation allocates and reads the weights from disk; callers should not wait for that. */
async function warm(context: AddonContext, vocabulary: Vocabulary): Promise<void> {
  const tokens = vocabulary.tokenize("Hello");
  context.initBatch(tokens.length);
  context.addToBatch(0, 0, tokens, Uint32Array.of(tokens.length - 1));
  await context.decodeBatch();
  context.disposeSequence(0);
}

function contextError(cause: unknown, sequences: number, tokens: number): MeshError {
  const why = cause instanceof Error ? cause.message : String(cause);
  const message = `llama.cpp has no room for ${sequences} sequences of ${tokens} tokens (${why}); set a smaller context_tokens or parallel_sequences.`;
  return new MeshError(Reason.ENGINE_FAILED, message, { field: "context_tokens", cause });
}

function loadError(error: unknown): MeshError {
  if (error instanceof MeshError) return error;
  const why = error instanceof Error ? error.message : String(error);
  return new MeshError(Reason.ENGINE_FAILED, `llama.cpp cannot load the model: ${why}`, { cause: error });
}

function send(message: FromWorker): void {
  process.send?.(message);
}

/** Ends the process: the agent sees it, ends the calls and starts another one. */
function fail(error: unknown): void {
  console.error(error);
  process.exit(1);
}

import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import type { DesiredReplica } from "#gen/helixmesh/node/v1/node_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { nearestName } from "#kernel/nearest-name.ts";
import type { ModelFile } from "./native.ts";

/** Everything that the engine can be told, checked. */
export interface LlamaCppOptions {
  readonly modelPath: string;
  /** Tokens of one sequence; 0 means what the file declares. */
  readonly contextTokens: number;
  readonly parallelSequences: number;
  /** Calls that may wait for a sequence. */
  readonly maxQueued: number;
  /** 0 means by the model's size. */
  readonly threads: number;
  /**
   * Threads that draw tokens. With 1 the draws follow the decode in its own thread, without a way back through the event
   * loop (8 to 20 % more tokens/s with a small vocabulary); several pay for vocabularies of 100,000 tokens and more.
   */
  readonly samplingThreads: number;
  /** Most tokens of one decode step; a longer prompt takes several. */
  readonly batchTokens: number;
  readonly gpu: ModelFile["gpu"];
  readonly gpuLayers: number | undefined;
  readonly flashAttention: "auto" | boolean;
  /** Longest input of Embed, tokens; it is read in one batch, whose memory it decides. */
  readonly embeddingTokens: number;
  /** A child that has calls and ends no decode step for this long hangs, and is killed. */
  readonly stallMs: number;
}

const defaultSequences = 16;
/** llama.cpp's LLAMA_MAX_SEQ. */
const mostSequences = 256;

/** Reads `DesiredReplica.engine_options`; an unknown name or a bad value fails the replica and says so. */
export function llamaCppOptions(replica: DesiredReplica, modelPath: string): LlamaCppOptions {
  const left = new Map(Object.entries(replica.engineOptions));
  const take = (name: string): string | undefined => {
    const value = left.get(name);
    left.delete(name);
    return value;
  };
  const integer = (name: string, unset: number, low: number, high: number): number => {
    const text = take(name);
    if (text === undefined) return unset;
    const value = /^\d+$/.test(text) ? Number(text) : Number.NaN;
    if (value >= low && value <= high) return value;
    throw refused(name, `is ${JSON.stringify(text)}; it must be a whole number from ${low} to ${high}`);
  };
  const choice = <T extends string>(name: string, choices: readonly T[], unset: T): T => {
    const text = take(name);
    if (text === undefined) return unset;
    const found = choices.find((known) => known === text);
    if (found === undefined) throw refused(name, `is ${JSON.stringify(text)}; it must be one of ${choices.join(", ")}`);
    return found;
  };

  const parallelSequences = replica.parallelSequences || defaultSequences;
  if (parallelSequences > mostSequences) {
    throw new MeshError(
      Reason.INVALID_REQUEST,
      `parallel_sequences is ${parallelSequences}; the most is ${mostSequences}.`,
      {
        field: "parallel_sequences",
        limit: `${mostSequences} sequences`,
      },
    );
  }
  const flash = choice("flash_attention", ["auto", "on", "off"], "auto");
  const gpuLayers = integer("gpu_layers", -1, 0, 10_000);
  const options: LlamaCppOptions = {
    modelPath,
    contextTokens: replica.contextTokens,
    parallelSequences,
    maxQueued: integer("max_queued", 256, 0, 100_000),
    threads: integer("threads", 0, 0, 1_024),
    samplingThreads: integer("sampling_threads", 1, 1, 128),
    batchTokens: Math.max(parallelSequences, integer("batch_tokens", 512, 1, 65_536)),
    gpu: choice("gpu", ["auto", "off", "cuda", "vulkan", "metal"], "auto"),
    gpuLayers: gpuLayers < 0 ? undefined : gpuLayers,
    flashAttention: flash === "auto" ? "auto" : flash === "on",
    embeddingTokens: integer("embedding_tokens", 2_048, 1, 1_000_000),
    stallMs: integer("stall_ms", 300_000, 1_000, 86_400_000),
  };
  const [unknown] = left.keys();
  if (unknown !== undefined) {
    const near = nearestName(unknown, optionNames);
    const hint = near === undefined ? `it knows ${optionNames.join(", ")}` : `did you mean ${near}?`;
    throw refused(unknown, `is no option of the llama.cpp engine; ${hint}`);
  }
  return options;
}

const optionNames =
  "threads sampling_threads max_queued batch_tokens gpu gpu_layers flash_attention embedding_tokens stall_ms".split(
    " ",
  );

function refused(name: string, why: string): MeshError {
  const field = `engine_options.${name}`;
  return new MeshError(Reason.INVALID_REQUEST, `${field} ${why}.`, { field });
}

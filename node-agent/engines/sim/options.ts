import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import type { DesiredReplica } from "#gen/helixmesh/node/v1/node_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";

export interface SimOptions {
  readonly contextTokens: number;
  readonly parallelSequences: number;
  /** Prompt tokens evaluated per second of engine time. */
  readonly prefillTokensPerS: number;
  /** Most prompt tokens that one step evaluates beside its decodes. */
  readonly prefillChunkTokens: number;
  /** Duration of a decode step with no sequences, microseconds. */
  readonly stepBaseUs: number;
  /** What each sequence in the batch adds to it, microseconds. */
  readonly stepPerSequenceUs: number;
  /** KV cache cells. */
  readonly kvTokens: number;
  /** Calls that may wait for a place in the batch. */
  readonly queueLimit: number;
  /** Tokens of an answer whose request names no max_output_tokens. */
  readonly outputTokens: number;
  /** Wall milliseconds per engine millisecond; 0 is as fast as possible. */
  readonly timeScale: number;
  /** Duration of loading the weights, milliseconds. */
  readonly loadMs: number;
  readonly embeddingDimensions: number;
  /** The engine crashes once it has generated this many tokens; 0 is never. */
  readonly crashAfterTokens: number;
}

interface Declared {
  readonly default: number;
  readonly min: number;
  readonly max: number;
  readonly whole: boolean;
}

const whole = (value: number, min: number, max: number): Declared => ({ default: value, min, max, whole: true });

/** By the name that a deployment's engine_options use. The README has them with their meaning. */
const declared = {
  prefill_tokens_per_s: whole(20_000, 1, 1e9),
  prefill_chunk_tokens: whole(512, 1, 1e6),
  step_base_us: whole(8_000, 0, 1e8),
  step_per_sequence_us: whole(50, 0, 1e7),
  kv_tokens: whole(262_144, 16, 1e9),
  queue_limit: whole(1_024, 0, 1e6),
  output_tokens: whole(64, 1, 1e6),
  time_scale: { default: 1, min: 0, max: 1_000, whole: false },
  load_ms: whole(0, 0, 3_600_000),
  embedding_dimensions: whole(64, 1, 8_192),
  crash_after_tokens: whole(0, 0, 1e9),
} satisfies Record<string, Declared>;

/** Throws a MeshError that names every wrong option. */
export function readSimOptions(replica: DesiredReplica): SimOptions {
  const errors: string[] = [];
  for (const name of Object.keys(replica.engineOptions)) {
    if (!Object.hasOwn(declared, name)) {
      errors.push(`engine_options.${name} is unknown to the sim engine; it knows ${Object.keys(declared).join(", ")}`);
    }
  }
  function read(name: keyof typeof declared): number {
    const rule: Declared = declared[name];
    const text = replica.engineOptions[name];
    if (text === undefined) return rule.default;
    const value = /^[0-9]+(\.[0-9]+)?$/.test(text) ? Number(text) : Number.NaN;
    if (value >= rule.min && value <= rule.max && (!rule.whole || Number.isInteger(value))) return value;
    errors.push(
      `engine_options.${name} is "${text.slice(0, 40)}"; it takes a ${rule.whole ? "whole " : ""}number from ${rule.min} to ${rule.max}`,
    );
    return rule.default;
  }
  const options: SimOptions = {
    contextTokens: replica.contextTokens || 8_192,
    parallelSequences: replica.parallelSequences || 256,
    prefillTokensPerS: read("prefill_tokens_per_s"),
    prefillChunkTokens: read("prefill_chunk_tokens"),
    stepBaseUs: read("step_base_us"),
    stepPerSequenceUs: read("step_per_sequence_us"),
    kvTokens: read("kv_tokens"),
    queueLimit: read("queue_limit"),
    outputTokens: read("output_tokens"),
    timeScale: read("time_scale"),
    loadMs: read("load_ms"),
    embeddingDimensions: read("embedding_dimensions"),
    crashAfterTokens: read("crash_after_tokens"),
  };
  if (errors.length === 0) return options;
  throw new MeshError(Reason.INVALID_REQUEST, `${errors.join("; ")}.`, { field: "engine_options" });
}

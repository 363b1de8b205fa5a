import type { FinishReason } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import type { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import type { EngineLoad } from "../engine.ts";
import type { PrefixNews, PrefixOptions } from "../prefix-news.ts";
import type { LlamaCppOptions } from "./llama-cpp-options.ts";

/** To the worker process. Requests travel as protobuf bytes: exact, and cheap to clone. */
export type ToWorker =
  | {
      readonly kind: "load";
      readonly options: LlamaCppOptions;
      /** Undefined when nobody wants to know what the cache holds. */
      readonly prefixes: PrefixOptions | undefined;
    }
  /** All that one event-loop turn brought. */
  | { readonly kind: "calls"; readonly calls: readonly CallCommand[] }
  | { readonly kind: "embed"; readonly id: number; readonly request: Uint8Array }
  | { readonly kind: "count"; readonly id: number; readonly request: Uint8Array }
  | { readonly kind: "close" };

export type CallCommand =
  | {
      readonly kind: "generate";
      readonly id: number;
      readonly choiceIndex: number;
      readonly request: Uint8Array;
      /** As in GenerateCall. */
      readonly generated: Uint32Array;
    }
  | { readonly kind: "cancel"; readonly id: number };

/** From the worker process. */
export type FromWorker =
  | { readonly kind: "progress"; readonly state: "loading" | "warming"; readonly share: number }
  /** EngineCapabilities as protobuf bytes. */
  | { readonly kind: "loaded"; readonly capabilities: Uint8Array }
  | { readonly kind: "refused-load"; readonly error: WireError }
  /** One decode step for all sequences, or several short ones. */
  | { readonly kind: "step"; readonly events: readonly WireEvent[]; readonly load: EngineLoad }
  | { readonly kind: "prefixes"; readonly news: PrefixNews }
  | { readonly kind: "answer"; readonly id: number; readonly response: Uint8Array }
  | { readonly kind: "refused"; readonly id: number; readonly error: WireError }
  | { readonly kind: "log"; readonly level: string; readonly message: string };

/** A StepEvent in a shape that survives structured cloning; `logprobs` is left out when there are none. */
export type WireEvent =
  | { readonly kind: "started"; readonly id: number; readonly promptTokens: number; readonly cachedTokens: number }
  | {
      readonly kind: "tokens";
      readonly id: number;
      readonly text: string;
      readonly tokenIds: readonly number[];
      readonly logprobs?: readonly WireLogprob[];
    }
  | { readonly kind: "finished"; readonly id: number; readonly reason: FinishReason; readonly completionTokens: number }
  | { readonly kind: "failed"; readonly id: number; readonly error: WireError; readonly completionTokens: number };

export interface WireLogprob {
  readonly tokenId: number;
  readonly token: string;
  readonly tokenBytes: Uint8Array;
  readonly logprob: number;
  readonly top: readonly WireLogprob[];
}

export interface WireError {
  readonly reason: Reason;
  readonly message: string;
  readonly field: string;
  readonly limit: string;
  /** For the log only. */
  readonly cause: string;
}

export function toWireError(value: unknown): WireError {
  const { reason, message, field, limit, cause } = MeshError.from(value);
  const why = cause instanceof Error ? (cause.stack ?? cause.message) : typeof cause === "string" ? cause : "";
  return { reason, message, field, limit, cause: why };
}

export function fromWireError(error: WireError): MeshError {
  const { reason, message, field, limit, cause } = error;
  return new MeshError(reason, message, { field, limit, ...(cause === "" ? {} : { cause }) });
}

import type {
  CountTokensRequest,
  EmbedRequest,
  EmbedResponse,
  FinishReason,
  GenerateRequest,
  TokenLogprob,
} from "#gen/helixmesh/inference/v1/inference_pb.ts";
import type { CountTokensResponse } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import type { DesiredReplica } from "#gen/helixmesh/node/v1/node_pb.ts";
import type { EngineCapabilities, ReplicaLoad } from "#gen/helixmesh/type/v1/type_pb.ts";
import type { Logger } from "#kernel/log.ts";
import type { MeshError } from "#kernel/mesh-error.ts";
import type { PrefixNews, PrefixOptions } from "./prefix-news.ts";

/**
 * What runs one replica's weights. An engine knows text, tokens and sampling; it knows nothing of links, tools parsed
 * out of text (node-agent/output does that), keys or money. One engine instance serves one replica.
 *
 * Life: `load` once, then any number of calls, then `close`. `engines/contract.ts` is the test suite that every engine
 * passes.
 */
export interface Engine {
  /** Reads the weights and warms up; reports 0..1. Rejects with a MeshError that says why. */
  load(onState: (state: "loading" | "warming", progress: number) => void): Promise<EngineCapabilities>;
  /** Begins a generation with one sequence; refuses at once, or later by an end, never by throwing after returning. */
  generate(call: GenerateCall): void;
  /** Stops a generation within one step; its end (with what was generated) still comes. Unknown ids are ignored. */
  cancel(id: number): void;
  embed(request: EmbedRequest): Promise<EmbedResponse>;
  countTokens(request: CountTokensRequest): Promise<CountTokensResponse>;
  /** A momentary reading; cheap. `replicaId` is filled by the caller. */
  readLoad(): EngineLoad;
  /** Ends everything that runs with DRAINING and frees the weights; idempotent. */
  close(): Promise<void>;
}

export type EngineLoad = Omit<ReplicaLoad, "$typeName" | "$unknown" | "replicaId">;

/** One sequence to generate: one choice of a request. */
export interface GenerateCall {
  /** Unique within the engine while it runs. */
  readonly id: number;
  readonly request: GenerateRequest;
  /** Which choice of the request; a seeded draw uses seed + choiceIndex. */
  readonly choiceIndex: number;
  /**
   * Tokens of this choice that an engine elsewhere generated before the call moved here; empty for a new call. The
   * engine goes on behind them as if they were its own: limits, penalties, grammar, stop strings, draws, counts. Their
   * text comes again, in one `tokens` event without token ids, so that what was held back is not lost. Tokens that
   * cannot be the engine's own end the call with `cannotContinue`.
   */
  readonly generated: readonly number[];
}

/** How an engine is made. `onStep` gets all that one decode step brought, at once; events of one id are in order. */
export interface EngineOptions {
  readonly replica: DesiredReplica;
  /** Path of the verified model file; empty for engines without one. */
  readonly modelPath: string;
  /** For what the engine's own library says, at debug level, and for its end; nothing is logged without one. */
  readonly logger?: Logger;
  onStep(events: readonly StepEvent[]): void;
  /** Undefined where nobody wants to know what the engine's cache holds; then it tells nothing. */
  readonly prefixes?: (PrefixOptions & { onChange(news: PrefixNews): void }) | undefined;
  /** The engine can serve no more (its process died, its weights are gone); all its calls have ended already. */
  onFailed(error: MeshError): void;
}

export type StepEvent =
  /** First event of a sequence that was admitted. */
  | { readonly kind: "started"; readonly id: number; readonly promptTokens: number; readonly cachedTokens: number }
  /** Tokens generated here; `text` holds whole UTF-8 characters that can no longer be part of a stop string. */
  | {
      readonly kind: "tokens";
      readonly id: number;
      readonly text: string;
      readonly tokenIds: readonly number[];
      readonly logprobs: readonly TokenLogprob[];
    }
  /** Last event of a sequence that ended well; `completionTokens` counts all its tokens, those generated elsewhere too. */
  | { readonly kind: "finished"; readonly id: number; readonly reason: FinishReason; readonly completionTokens: number }
  /** Last event of one that did not, a refusal included. */
  | { readonly kind: "failed"; readonly id: number; readonly error: MeshError; readonly completionTokens: number };

export type CreateEngine = (options: EngineOptions) => Engine;

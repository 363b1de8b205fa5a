import type {
  CountTokensRequest,
  CountTokensResponse,
  EmbedRequest,
  EmbedResponse,
  GenerateRequest,
  ModelInfo,
} from "#gen/helixmesh/inference/v1/inference_pb.ts";
import type { Principal } from "../admission/authenticate.ts";
import type { RoutingHints } from "../routing/hints.ts";
import type { ResponseSink, RunningCall } from "./sink.ts";

/** The doors' names, as usage records, logs and metrics have them; "shadow" is a copy of a call (shadows.ts). */
export type Door =
  | "grpc"
  | "grpc-web"
  | "connect"
  | "openai-chat"
  | "openai-completions"
  | "openai-embeddings"
  | "shadow";

/** What a door knows of a call besides its request. */
export interface CallContext {
  /** x-request-id: the caller's or a new one; 1 to 128 printable ASCII characters. */
  readonly callId: string;
  readonly door: Door;
  readonly principal: Principal;
  /** Milliseconds the client gives the call; undefined means the router's own limit alone. */
  readonly timeoutMs: number | undefined;
  /** W3C traceparent of the client, if it sent one. */
  readonly traceparent: string | undefined;
  /** The client lost its router, or its way to it, under a call of this id and key, which goes on here. */
  readonly resumes?: boolean;
  /** Absent where the caller cannot say anything about it. */
  readonly routing?: RoutingHints;
}

/** A request as its door has it. */
export interface GenerateAsked {
  readonly request: GenerateRequest;
  /** `request` in binary form where the client sent it so; it then goes to the agent as it came. */
  readonly encoded?: Uint8Array;
}

/**
 * The seam between doors (protocols) and the core. Doors translate; they never pick, retry or count. Every method
 * validates limits of the contract (proto/helixmesh/inference/v1).
 */
export interface Calls {
  /**
   * Pushes encoded GenerateResponse messages in stream order (Started, Delta…, Finished), as the agent made them, or
   * fails the sink, at any point. Aborting the call stops the generation within one step.
   */
  generate(asked: GenerateAsked, context: CallContext, sink: ResponseSink): RunningCall;
  /** Fails with a MeshError. `signal` aborts when the client goes away. */
  embed(request: EmbedRequest, context: CallContext, signal: AbortSignal): Promise<EmbedResponse>;
  /** As `embed`. */
  countTokens(request: CountTokensRequest, context: CallContext, signal: AbortSignal): Promise<CountTokensResponse>;
  listModels(principal: Principal): readonly ModelInfo[];
}

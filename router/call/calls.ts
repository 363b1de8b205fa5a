import type {
  CountTokensRequest,
  CountTokensResponse,
  EmbedRequest,
  EmbedResponse,
  GenerateRequest,
  ModelInfo,
} from "#gen/helixmesh/inference/v1/inference_pb.ts";
import type { Principal } from "../admission/authenticate.ts";

/** The doors' names, as usage records, logs and metrics have them. */
export type Door = "grpc" | "grpc-web" | "connect" | "openai-chat" | "openai-completions" | "openai-embeddings";

/** What a door knows of a call besides its request. */
export interface CallContext {
  /** x-request-id: the caller's or a new one; 1 to 128 printable ASCII characters. */
  readonly callId: string;
  readonly door: Door;
  readonly principal: Principal;
  /** Aborts when the client goes away. */
  readonly signal: AbortSignal;
  /** Milliseconds the client gives the call; undefined means the router's own limit alone. */
  readonly timeoutMs: number | undefined;
  /** Ends the response of a client that does not read it, which an error would wait for. */
  readonly cutClient?: () => void;
  /** W3C traceparent of the client, if it sent one. */
  readonly traceparent: string | undefined;
}

/**
 * The seam between doors (protocols) and the core. Doors translate; they never pick, retry or count. Every method
 * validates limits of the contract (proto/helixmesh/inference/v1) and fails with a MeshError.
 */
export interface Calls {
  /**
   * Yields encoded GenerateResponse messages in stream order (Started, Delta…, Finished), as the agent made them.
   * Throws a MeshError at any point; returning early from the loop cancels the generation within one step.
   */
  generate(request: GenerateRequest, context: CallContext): AsyncIterable<Uint8Array>;
  embed(request: EmbedRequest, context: CallContext): Promise<EmbedResponse>;
  countTokens(request: CountTokensRequest, context: CallContext): Promise<CountTokensResponse>;
  listModels(principal: Principal): readonly ModelInfo[];
}

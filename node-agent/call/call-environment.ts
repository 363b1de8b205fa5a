import type { EmbedRequest, EmbedResponse } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import type { CountTokensRequest, CountTokensResponse } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import type { UsageRecord } from "#gen/helixmesh/type/v1/type_pb.ts";
import type { Clock } from "#kernel/clock.ts";
import type { Logger } from "#kernel/log.ts";
import type { GenerateCall, StepEvent } from "../engines/engine.ts";
import type { CallMetrics } from "./call-metrics.ts";

/** A replica as a call sees it. */
export interface CallTarget {
  /**
   * Begins one sequence. Throws a MeshError when it is refused at once; otherwise `onEvent` gets its events in order,
   * the last of which is `finished` or `failed`. Never calls `onEvent` before it has returned.
   */
  generate(sequence: Omit<GenerateCall, "id">, onEvent: (event: StepEvent) => void): RunningSequence;
  embed(request: EmbedRequest): Promise<EmbedResponse>;
  countTokens(request: CountTokensRequest): Promise<CountTokensResponse>;
}

export interface RunningSequence {
  /** Stops it within one step; its `failed` event still comes. Harmless after its end. */
  cancel(): void;
}

/** What every call needs besides its request. */
export interface CallEnvironment {
  /** Throws a MeshError that says why a replica takes no calls. */
  readonly target: (replicaId: string) => CallTarget;
  readonly nodeId: () => string;
  readonly recordUsage: (record: UsageRecord) => void;
  readonly newToolCallId: () => string;
  readonly metrics: CallMetrics;
  readonly clock: Clock;
  readonly logger: Logger;
}

import type { EngineCapabilities } from "#gen/helixmesh/type/v1/type_pb.ts";

/** One replica that could take the call now, with what a policy may weigh. */
export interface Candidate {
  readonly replicaId: string;
  readonly nodeId: string;
  readonly deployment: string;
  readonly capabilities: EngineCapabilities;
  /** Sequences in its decode batch, over all routers, as last reported. */
  readonly running: number;
  /** Calls waiting inside the agent, over all routers, as last reported. */
  readonly queued: number;
  /** Calls of this router on it, known without delay. */
  readonly inFlight: number;
}

import type { EngineCapabilities, ReplicaLoad, ReplicaState } from "#gen/helixmesh/type/v1/type_pb.ts";

/** What the link knows of a replica at this moment. */
export interface ReplicaView {
  readonly state: ReplicaState;
  /** 0 to 1 within fetching or loading; undefined in other states and where the agent does not say. */
  readonly progress?: number | undefined;
  readonly capabilities: EngineCapabilities | undefined;
  readonly load: ReplicaLoad | undefined;
  readonly inFlight: number;
}

/** Momentary view of all links; undefined for a replica whose link is down or takes no new calls. */
export type ReplicaLookup = (nodeId: string, replicaId: string) => ReplicaView | undefined;

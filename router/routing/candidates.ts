import type { EngineCapabilities, ReplicaLoad } from "#gen/helixmesh/type/v1/type_pb.ts";
import { ReplicaState } from "#gen/helixmesh/type/v1/type_pb.ts";
import type { Deployment } from "#gen/helixmesh/discovery/v1/discovery_pb.ts";
import type { IndexedSnapshot } from "../discovery/snapshot.ts";
import type { Candidate } from "./candidate.ts";

/** What the link knows of a replica at this moment. */
export interface ReplicaView {
  readonly state: ReplicaState;
  readonly capabilities: EngineCapabilities | undefined;
  readonly load: ReplicaLoad | undefined;
  readonly inFlight: number;
}

/** Momentary view of all links; undefined for a replica whose link is down or takes no new calls. */
export type ReplicaLookup = (nodeId: string, replicaId: string) => ReplicaView | undefined;

/** Something a call needs of an engine, with the request's parameter that asks for it. */
export interface Need {
  readonly capability: BooleanCapability;
  readonly parameter: string;
}

export type BooleanCapability = {
  [K in keyof EngineCapabilities]-?: EngineCapabilities[K] extends boolean ? K : never;
}[keyof EngineCapabilities];

export type CandidatesResult =
  /** At least one. */
  | { readonly kind: "candidates"; readonly candidates: readonly Candidate[] }
  /** No replica takes calls now; `known` of them exist. */
  | { readonly kind: "none-ready"; readonly known: number }
  /** Every ready replica lacks `need`: waiting would not help. */
  | { readonly kind: "unsupported"; readonly need: Need };

/** Which replicas could take a call now: ready, link up, not draining, able to do all that is needed. */
export function findCandidates(
  snapshot: IndexedSnapshot,
  lookup: ReplicaLookup,
  deployments: readonly Deployment[],
  needs: readonly Need[],
): CandidatesResult {
  const candidates: Candidate[] = [];
  let known = 0;
  let lacking: Need | undefined;
  for (const deployment of deployments) {
    for (const replica of snapshot.replicasOfDeployment.get(deployment.name) ?? []) {
      known += 1;
      const view = lookup(replica.nodeId, replica.replicaId);
      if (view?.state !== ReplicaState.READY || !view.capabilities) continue;
      const { capabilities } = view;
      const missing = needs.find((need) => !capabilities[need.capability]);
      if (missing) {
        lacking ??= missing;
        continue;
      }
      candidates.push({
        replicaId: replica.replicaId,
        nodeId: replica.nodeId,
        deployment: deployment.name,
        capabilities,
        running: view.load?.running ?? 0,
        queued: view.load?.queued ?? 0,
        inFlight: view.inFlight,
      });
    }
  }
  if (candidates.length > 0) return { kind: "candidates", candidates };
  return lacking ? { kind: "unsupported", need: lacking } : { kind: "none-ready", known };
}

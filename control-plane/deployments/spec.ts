import { create } from "@bufbuild/protobuf";
import { type DesiredReplica, DesiredReplicaSchema } from "#gen/helixmesh/node/v1/node_pb.ts";
import { EngineKind } from "#gen/helixmesh/type/v1/type_pb.ts";

/** What a replica runs, frozen when it is placed; the column `replicas.spec`. */
export interface ReplicaSpec {
  readonly model: string;
  readonly source: string;
  /** Hex; empty means unchecked. */
  readonly sha256: string;
  readonly engine: EngineKind;
  /** 0: the model's. */
  readonly contextTokens: number;
  /** 0: the agent's default. */
  readonly parallelSequences: number;
  readonly engineOptions: Readonly<Record<string, string>>;
}

/** What a deployment's replicas should run now; the simulator needs no weights. */
export function currentSpec(deployment: ReplicaSpec): ReplicaSpec {
  const { model, source, sha256, engine, contextTokens, parallelSequences, engineOptions } = deployment;
  const weights = engine === EngineKind.SIM ? { source: "", sha256: "" } : { source, sha256 };
  return { model, ...weights, engine, contextTokens, parallelSequences, engineOptions };
}

/** Equal for specs that run the same. */
export function specKey(spec: ReplicaSpec): string {
  const options = Object.entries(spec.engineOptions).sort(([a], [b]) => (a < b ? -1 : 1));
  return JSON.stringify([
    spec.model,
    spec.source,
    spec.sha256,
    spec.engine,
    spec.contextTokens,
    spec.parallelSequences,
    options,
  ]);
}

export function toDesiredReplica(replicaId: string, deployment: string, spec: ReplicaSpec): DesiredReplica {
  return create(DesiredReplicaSchema, { replicaId, deployment, ...spec, engineOptions: { ...spec.engineOptions } });
}

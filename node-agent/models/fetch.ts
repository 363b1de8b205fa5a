import type { DesiredReplica } from "#gen/helixmesh/node/v1/node_pb.ts";
import { EngineKind } from "#gen/helixmesh/type/v1/type_pb.ts";
import { resolveSource } from "./resolve.ts";
import { verifyModelFile } from "./verify.ts";

/** The path of the replica's verified model file; empty for an engine that reads none. */
export async function fetchModel(
  desired: DesiredReplica,
  onProgress: (share: number) => void,
  signal: AbortSignal,
): Promise<string> {
  if (desired.engine === EngineKind.SIM) return "";
  const path = resolveSource(desired.source);
  await verifyModelFile(path, { sha256: desired.sha256, onProgress, signal });
  return path;
}

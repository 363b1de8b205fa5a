import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { EngineKind } from "#gen/helixmesh/type/v1/type_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import type { CreateEngine } from "./engine.ts";

/** Engines by the name that the `--engines` setting uses. */
export const engineKinds = { "llama-cpp": EngineKind.LLAMA_CPP, sim: EngineKind.SIM } as const;

export type EngineName = keyof typeof engineKinds;

/** Loads an engine's code only when a replica needs it. Rejects when this agent does not run the kind. */
export async function engineFor(kind: EngineKind, enabled: readonly EngineKind[]): Promise<CreateEngine> {
  if (enabled.includes(kind)) {
    if (kind === EngineKind.SIM) return (await import("./sim/index.ts")).createSimEngine;
    if (kind === EngineKind.LLAMA_CPP) return (await import("./llama-cpp/index.ts")).createLlamaCppEngine;
  }
  const names = Object.entries(engineKinds).flatMap(([name, value]) => (enabled.includes(value) ? [name] : []));
  throw new MeshError(Reason.UNSUPPORTED_PARAMETER, `The node does not run this engine; it runs ${names.join(", ")}.`, {
    field: "engine",
  });
}

import { rmSync } from "node:fs";
import type { MeshAddresses } from "./mesh.ts";
import { type StateFolder, writeAtomically } from "./state-folder.ts";

/** `run.json`: where everything is while the mesh runs, for scripts and the CLI. */
export function writeRunFile(state: StateFolder, { router, controlPlane, nodeAgents }: MeshAddresses): void {
  const content = { router, controlPlane, nodeAgents, keyFile: state.path("key") };
  writeAtomically(state.path("run.json"), `${JSON.stringify(content, undefined, 2)}\n`);
}

export function removeRunFile(state: StateFolder): void {
  rmSync(state.path("run.json"), { force: true });
}

import { create } from "@bufbuild/protobuf";
import {
  type EngineCapabilities,
  EngineCapabilitiesSchema,
  ReplicaState as WireState,
} from "#gen/helixmesh/type/v1/type_pb.ts";
import { invariant, unreachable } from "#kernel/invariant.ts";
import type { MeshError } from "#kernel/mesh-error.ts";

/** Where a replica is in its life; the same words as helixmesh.type.v1.ReplicaState. */
export type ReplicaState =
  | { readonly kind: "absent" }
  | { readonly kind: "fetching"; readonly progress: number }
  | { readonly kind: "loading"; readonly progress: number }
  | { readonly kind: "warming"; readonly progress: number }
  | { readonly kind: "ready"; readonly capabilities: EngineCapabilities }
  /** `capabilities` is undefined when it never became ready. */
  | { readonly kind: "draining"; readonly why: string; readonly capabilities: EngineCapabilities | undefined }
  /** Waits for its next attempt. */
  | { readonly kind: "failed"; readonly error: MeshError };

export type ReplicaEvent =
  | { readonly kind: "attempt" }
  | { readonly kind: "progress"; readonly phase: "fetching" | "loading" | "warming"; readonly progress: number }
  | { readonly kind: "loaded"; readonly capabilities: EngineCapabilities }
  | { readonly kind: "failed"; readonly error: MeshError }
  | { readonly kind: "drain"; readonly why: string };

const phases = ["fetching", "loading", "warming"] as const;

/** The one transition function. A draining replica never comes back: its id is made anew once it is gone. */
export function transition(state: ReplicaState, event: ReplicaEvent): ReplicaState {
  if (state.kind === "draining") return state;
  switch (event.kind) {
    case "attempt":
      invariant(state.kind === "absent" || state.kind === "failed", `an attempt begins in ${state.kind}`);
      return { kind: "fetching", progress: 0 };
    case "progress": {
      const progress = Math.min(1, Math.max(0, event.progress));
      const from = phases.findIndex((phase) => phase === state.kind);
      // A late report of an earlier phase, or of an attempt that failed meanwhile, changes nothing.
      if (from < 0 || phases.indexOf(event.phase) < from) return state;
      return { kind: event.phase, progress };
    }
    case "loaded":
      invariant(
        phases.some((phase) => phase === state.kind),
        `loaded in ${state.kind}`,
      );
      return { kind: "ready", capabilities: event.capabilities };
    case "failed":
      return { kind: "failed", error: event.error };
    case "drain":
      return {
        kind: "draining",
        why: event.why,
        capabilities: state.kind === "ready" ? state.capabilities : undefined,
      };
    default:
      return unreachable(event);
  }
}

/** The state in the words of the contracts. */
export function wireState(state: ReplicaState): {
  readonly state: WireState;
  readonly message: string;
  readonly progress: number;
  readonly capabilities: EngineCapabilities;
} {
  const none = { message: "", progress: 0, capabilities: create(EngineCapabilitiesSchema) };
  switch (state.kind) {
    case "absent":
      return { ...none, state: WireState.ABSENT };
    case "fetching":
      return { ...none, state: WireState.FETCHING, progress: state.progress };
    case "loading":
      return { ...none, state: WireState.LOADING, progress: state.progress };
    case "warming":
      return { ...none, state: WireState.WARMING, progress: state.progress };
    case "ready":
      return { ...none, state: WireState.READY, progress: 1, capabilities: state.capabilities };
    case "draining":
      return {
        ...none,
        state: WireState.DRAINING,
        message: state.why,
        capabilities: state.capabilities ?? none.capabilities,
      };
    case "failed":
      return { ...none, state: WireState.FAILED, message: state.error.message };
    default:
      return unreachable(state);
  }
}

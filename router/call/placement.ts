import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { Backoff } from "#kernel/backoff.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import type { Candidate } from "../routing/candidate.ts";
import { type Need, type ReplicaLookup, findCandidates } from "../routing/candidates.ts";
import type { CallParts } from "./call-parts.ts";
import { mayRetrySame } from "./retry.ts";

export type Place =
  | { readonly kind: "dispatch"; readonly candidate: Candidate }
  /** Until the links change, or for `retryInMs` where the time alone would help. */
  | { readonly kind: "wait"; readonly retryInMs: number | undefined }
  /** Waiting would not help. */
  | { readonly kind: "refuse"; readonly error: MeshError };

/** Where one call may go next, knowing where it has been. */
export class Placement {
  readonly #parts: CallParts;
  readonly #model: string;
  readonly #needs: readonly Need[];
  /** Replicas that failed this call, with why. */
  readonly #tried = new Map<string, Reason>();
  #backoff: Backoff | undefined;
  #notBeforeMs = 0;
  #lastError: MeshError | undefined;

  constructor(parts: CallParts, model: string, needs: readonly Need[]) {
    this.#parts = parts;
    this.#model = model;
    this.#needs = needs;
  }

  choose(): Place {
    const { snapshot: current, pool, pick, clock } = this.#parts;
    const snapshot = current();
    const deployments = snapshot.deploymentsOfModel.get(this.#model) ?? [];
    const replica: ReplicaLookup = (nodeId, replicaId) => pool.replica(nodeId, replicaId);
    const found = findCandidates(snapshot, replica, deployments, this.#needs);
    if (found.kind === "unsupported") return { kind: "refuse", error: unsupported(found.need, this.#model) };
    if (found.kind === "none-ready") return { kind: "wait", retryInMs: undefined };
    const { candidates } = found;
    const fresh = candidates.filter(({ replicaId }) => !this.#tried.has(replicaId));
    if (fresh.length > 0) return { kind: "dispatch", candidate: pick(fresh) };
    const again = candidates.filter(({ replicaId }) => mayRetrySame(this.#tried.get(replicaId) ?? Reason.UNSPECIFIED));
    // All that could take it are full: say so now instead of adding to their load.
    if (again.length === 0 && this.#lastError) return { kind: "refuse", error: this.#lastError };
    const pauseMs = this.#notBeforeMs - clock.monotonicMs();
    if (pauseMs <= 0) return { kind: "dispatch", candidate: pick(again) };
    return { kind: "wait", retryInMs: pauseMs };
  }

  /** The attempt there came to nothing. */
  failed({ replicaId }: Candidate, error: MeshError): void {
    const { clock, random } = this.#parts;
    this.#backoff ??= new Backoff({ initialMs: 25, maxMs: 1_000 }, random);
    this.#lastError = error;
    this.#tried.set(replicaId, error.reason);
    this.#notBeforeMs = clock.monotonicMs() + this.#backoff.nextMs();
  }

  /** No replica became ready in `waitedMs`. */
  exhausted(waitedMs: number): MeshError {
    const waited = `waited ${Math.round(waitedMs)} ms for a ready replica of ${JSON.stringify(this.#model)}`;
    const options = { retryAfterMs: 1_000 };
    const last = this.#lastError;
    if (last) return new MeshError(last.reason, `${last.message} The router then ${waited}.`, options);
    const message = `No replica is ready: the router ${waited}. Try again shortly.`;
    return new MeshError(Reason.NO_READY_REPLICA, message, options);
  }
}

function unsupported(need: Need, model: string): MeshError {
  const what = need.parameter === "model" ? `cannot ${verb(need.capability)}` : "does not support this parameter";
  return new MeshError(
    Reason.UNSUPPORTED_PARAMETER,
    `${need.parameter}: the engine that serves ${JSON.stringify(model)} ${what}.`,
    { field: need.parameter },
  );
}

function verb(capability: Need["capability"]): string {
  return capability === "embed" ? "make embeddings; use an embedding model" : "generate text; use a generative model";
}

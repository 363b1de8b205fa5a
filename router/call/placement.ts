import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { Backoff } from "#kernel/backoff.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { explainAttributes } from "../routing/explain.ts";
import { retryAfterMs } from "../admission/queue-errors.ts";
import type { Need } from "../routing/need.ts";
import type { PickResult, Picked } from "../routing/routes.ts";
import type { CallParts, CallSpec } from "./call-parts.ts";
import { mayRetrySame } from "./retry.ts";

export type Place =
  | { readonly kind: "dispatch"; readonly picked: Picked }
  /** For its turn: every replica of `deployment` is full. */
  | { readonly kind: "queue"; readonly deployment: string }
  /** Until the links change, or for `retryInMs` where the time alone would help. */
  | { readonly kind: "wait"; readonly retryInMs: number | undefined }
  /** Waiting would not help. */
  | { readonly kind: "refuse"; readonly error: MeshError };

/** Where one call may go next, knowing where it has been. */
export class Placement {
  readonly #parts: CallParts;
  readonly #spec: CallSpec;
  /** Replicas that failed this call, with why. */
  readonly #tried = new Map<string, Reason>();
  #backoff: Backoff | undefined;
  #notBeforeMs = 0;
  #last: { readonly deployment: string; readonly error: MeshError } | undefined;
  /** Where a call that has output must stay: another deployment may run other weights. */
  #pinned: Pick<Picked, "model" | "deployment"> | undefined;

  constructor(parts: CallParts, spec: CallSpec) {
    this.#parts = parts;
    this.#spec = spec;
  }

  /** `deployment`: where the call had its turn; it goes elsewhere only when nothing is ready there. */
  choose(deployment?: string): Place {
    const tried = this.#tried.size === 0 ? nobody : new Set(this.#tried.keys());
    const fresh = this.#pickHealthy(tried, deployment ?? this.#only);
    switch (fresh.kind) {
      case "picked":
        return this.#placed(fresh.picked);
      case "unsupported":
        return { kind: "refuse", error: unsupported(fresh.need, this.#spec.model) };
      case "none-ready":
        return { kind: "wait", retryInMs: undefined };
      case "excluded":
        return this.#again();
    }
  }

  /** From now on it goes only where the output of `picked` can be continued. */
  pin(picked: Picked): void {
    this.#pinned = picked;
  }

  /** A replica of the same deployment that nothing speaks against. */
  second({ replicaId, deployment }: Picked): Picked | undefined {
    const { health, rooms } = this.#parts;
    const exclude = new Set([replicaId, ...this.#tried.keys(), ...health.avoided(), ...rooms.refusing()]);
    const result = this.#pick(exclude, deployment);
    return result.kind === "picked" ? result.picked : undefined;
  }

  /** The one deployment that may serve the call, if it is only one. */
  get #only(): string | undefined {
    return this.#pinned?.deployment ?? this.#spec.deployment;
  }

  /** All that could take it have failed it before. */
  #again(): Place {
    const full = [...this.#tried].flatMap(([replicaId, reason]) => (mayRetrySame(reason) ? [] : replicaId));
    const again = this.#pickHealthy(new Set(full), this.#only);
    if (again.kind === "picked") {
      const pauseMs = this.#notBeforeMs - this.#parts.clock.monotonicMs();
      return pauseMs <= 0 ? this.#placed(again.picked) : { kind: "wait", retryInMs: pauseMs };
    }
    if (!this.#last) return { kind: "wait", retryInMs: undefined };
    // All that could take it said that they are full: it waits for its turn, if there is anything to wait for.
    const { deployment, error } = this.#last;
    if (this.#spec.deployment !== undefined || this.#parts.rooms.of(deployment) !== "busy") {
      return { kind: "refuse", error };
    }
    this.#tried.clear();
    return { kind: "queue", deployment };
  }

  /** Some replica but `exclude`: one that is neither avoided nor said that it is full, else one of these. */
  #pickHealthy(exclude: ReadonlySet<string>, deployment: string | undefined): PickResult {
    const { health, rooms } = this.#parts;
    const avoided = health.avoided();
    const refusing = rooms.refusing();
    if (avoided.size > 0 || refusing.size > 0) {
      const healthy = this.#pick(new Set([...exclude, ...avoided, ...refusing]), deployment);
      if (healthy.kind === "picked") return healthy;
    }
    const any = this.#pick(exclude, deployment);
    if (any.kind === "picked" || deployment === this.#only) return any;
    return this.#pickHealthy(exclude, this.#only);
  }

  #pick(exclude: ReadonlySet<string>, deployment: string | undefined): PickResult {
    const { needs, drawing } = this.#spec;
    if (this.#pinned && drawing === "seeded") {
      const faithful = this.#pickWith(
        [...needs, { capability: "seedByPosition", parameter: "seed" }],
        exclude,
        deployment,
      );
      if (faithful.kind === "picked") return faithful;
    }
    return this.#pickWith(needs, exclude, deployment);
  }

  #pickWith(needs: readonly Need[], exclude: ReadonlySet<string>, deployment: string | undefined): PickResult {
    const { model, request, promptBlocks, context, span } = this.#spec;
    return this.#parts.routes.pick({
      model: this.#pinned?.model ?? model,
      needs,
      promptBytes: request.length,
      promptBlocks,
      session: context.routing?.session,
      canary: context.routing?.canary,
      exclude,
      deployment,
      explain: context.routing?.onPlaced !== undefined || isSampled(span.traceparent),
    });
  }

  #placed(picked: Picked): Place {
    const { context, span } = this.#spec;
    const { explanation } = picked;
    if (explanation) {
      span.setAttributes(() => explainAttributes(explanation));
      context.routing?.onPlaced?.(explanation);
    }
    return { kind: "dispatch", picked };
  }

  /** The attempt there came to nothing. */
  failed({ replicaId, deployment }: Picked, error: MeshError): void {
    const { clock, random } = this.#parts;
    this.#backoff ??= new Backoff({ initialMs: 25, maxMs: 1_000 }, random);
    this.#last = { deployment, error };
    this.#tried.set(replicaId, error.reason);
    this.#notBeforeMs = clock.monotonicMs() + this.#backoff.nextMs();
  }

  /** No replica became ready in `waitedMs`. */
  exhausted(waitedMs: number): MeshError {
    const { model } = this.#spec;
    const { text, stageLeftMs = 0 } = this.#parts.rooms.situation(model);
    const waited = `waited ${Math.round(waitedMs)} ms for a ready replica of ${JSON.stringify(model)} (${text})`;
    const options = { retryAfterMs: retryAfterMs(stageLeftMs) };
    const last = this.#last?.error;
    if (last) return new MeshError(last.reason, `${last.message} The router then ${waited}.`, options);
    const message = `No replica is ready: the router ${waited}. Try again in ${options.retryAfterMs / 1_000} s.`;
    return new MeshError(Reason.NO_READY_REPLICA, message, options);
  }
}

const nobody: ReadonlySet<string> = new Set();

/** https://www.w3.org/TR/trace-context/#sampled-flag; a call that is traced explains its routing in its span. */
function isSampled(traceparent: string): boolean {
  return traceparent !== "" && (Number.parseInt(traceparent.slice(-2), 16) & 1) === 1;
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

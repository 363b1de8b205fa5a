import { create } from "@bufbuild/protobuf";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import type {
  CountTokensRequest,
  CountTokensResponse,
  EmbedRequest,
  EmbedResponse,
} from "#gen/helixmesh/inference/v1/inference_pb.ts";
import type { DesiredReplica } from "#gen/helixmesh/node/v1/node_pb.ts";
import { type ReplicaLoad, ReplicaLoadSchema } from "#gen/helixmesh/type/v1/type_pb.ts";
import { Backoff } from "#kernel/backoff.ts";
import { type Clock, sleep } from "#kernel/clock.ts";
import type { Logger } from "#kernel/log.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import type { Random } from "#kernel/random.ts";
import type { CallTarget, RunningSequence } from "../call/index.ts";
import type { CreateEngine, Engine, GenerateCall, StepEvent } from "../engines/engine.ts";
import type { PrefixNews, PrefixOptions } from "../engines/prefix-news.ts";
import { ProgressPace } from "./progress-pace.ts";
import { type ReplicaEvent, type ReplicaState, transition } from "./state.ts";

export interface ReplicaParts {
  /** Path of the verified model file; empty for engines without one. */
  readonly fetchModel: (
    desired: DesiredReplica,
    onProgress: (share: number) => void,
    signal: AbortSignal,
  ) => Promise<string>;
  /** Rejects when the agent does not run that kind. */
  readonly engineFor: (desired: DesiredReplica) => Promise<CreateEngine>;
  readonly onChange: () => void;
  /** Undefined where nobody wants to know what engines hold in their caches. "snapshot": the engine has gone. */
  readonly prefixes?: (PrefixOptions & { onChange(change: PrefixNews | "snapshot"): void }) | undefined;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
}

/** Longest that one attempt may run well before its failure counts as a new trouble, milliseconds. */
const stableAfterMs = 60_000;

/** One replica: its engine through all its attempts, and the calls on it. The state says what callers may do. */
export class Replica implements CallTarget {
  readonly desired: DesiredReplica;
  readonly #parts: ReplicaParts;
  readonly #logger: Logger;
  readonly #backoff: Backoff;
  readonly #pace: ProgressPace;
  readonly #stop = new AbortController();
  readonly #sequences = new Map<number, (event: StepEvent) => void>();
  readonly #finished: Promise<void>;
  #state: ReplicaState = { kind: "absent" };
  #engine: Engine | undefined;
  #engineRestarts = 0;
  /** Prompt prefixes in the engine's cache. */
  readonly #held = new Set<number>();
  #nextId = 1;
  #unary = 0;
  #whenIdle: (() => void) | undefined;

  constructor(desired: DesiredReplica, parts: ReplicaParts) {
    this.desired = desired;
    this.#parts = parts;
    this.#logger = parts.logger.child({ replicaId: desired.replicaId, model: desired.model });
    this.#backoff = new Backoff({ initialMs: 500, maxMs: 30_000 }, parts.random);
    this.#pace = new ProgressPace(parts.clock, () => parts.onChange());
    this.#finished = this.#run();
  }

  get state(): ReplicaState {
    return this.#state;
  }

  get engineRestarts(): number {
    return this.#engineRestarts;
  }

  readLoad(): ReplicaLoad {
    const load = this.#engine?.readLoad() ?? {};
    return create(ReplicaLoadSchema, { ...load, replicaId: this.desired.replicaId });
  }

  /** Prompt prefixes that the engine's cache holds now, as hashes of kernel/prompt-blocks. */
  heldPrefixes(): Uint32Array {
    return Uint32Array.from(this.#held);
  }

  get heldPrefixCount(): number {
    return this.#held.size;
  }

  /** Throws the MeshError that says why no call can be taken. */
  checkReady(): Engine {
    const { state } = this;
    if (state.kind === "ready" && this.#engine !== undefined) return this.#engine;
    if (state.kind === "draining") {
      throw new MeshError(Reason.DRAINING, "The replica is being removed from this node; try another one.");
    }
    throw new MeshError(Reason.NO_READY_REPLICA, `The replica is ${state.kind}, not ready; try again later.`);
  }

  generate(sequence: Omit<GenerateCall, "id">, onEvent: (event: StepEvent) => void): RunningSequence {
    const engine = this.checkReady();
    const id = this.#nextId++;
    this.#sequences.set(id, onEvent);
    try {
      engine.generate({ ...sequence, id });
    } catch (error) {
      this.#forget(id);
      throw error;
    }
    return { cancel: () => engine.cancel(id) };
  }

  embed(request: EmbedRequest): Promise<EmbedResponse> {
    return this.#unaryCall((engine) => engine.embed(request));
  }

  countTokens(request: CountTokensRequest): Promise<CountTokensResponse> {
    return this.#unaryCall((engine) => engine.countTokens(request));
  }

  /** Takes no more calls; the engine ends when the last call has, or after the timeout. Resolves when all is freed. */
  async drain(why: string, timeoutMs: number): Promise<void> {
    const first = this.#state.kind !== "draining";
    this.#apply({ kind: "drain", why });
    if (first) {
      if (this.#isBusy()) {
        const idle = new Promise<void>((resolve) => (this.#whenIdle = resolve));
        const timer = this.#parts.clock.setTimer(timeoutMs, () => this.#whenIdle?.());
        await idle;
        timer.cancel();
      }
      this.#stop.abort();
    }
    await this.#finished;
  }

  async #unaryCall<T>(run: (engine: Engine) => Promise<T>): Promise<T> {
    const engine = this.checkReady();
    this.#unary++;
    try {
      return await run(engine);
    } finally {
      this.#unary--;
      this.#noteIdle();
    }
  }

  /** Attempts until it is stopped. Never rejects. */
  async #run(): Promise<void> {
    const { clock } = this.#parts;
    const { signal } = this.#stop;
    // Not within the constructor: the owner must hold the replica before its first change is told.
    await Promise.resolve();
    while (!signal.aborted) {
      this.#apply({ kind: "attempt" });
      const beganMs = clock.monotonicMs();
      const failure = await this.#attempt(signal);
      if (failure === undefined || signal.aborted) break;
      if (clock.monotonicMs() - beganMs > stableAfterMs) this.#backoff.reset();
      const delayMs = this.#backoff.nextMs();
      this.#logger.warn("replica failed", { error: failure, retryInMs: Math.round(delayMs) });
      await sleep(clock, delayMs, signal);
    }
  }

  /** One engine from fetch to its end; undefined when it was stopped, else why it failed. */
  async #attempt(signal: AbortSignal): Promise<MeshError | undefined> {
    const { fetchModel, engineFor } = this.#parts;
    const ended = Promise.withResolvers<MeshError | undefined>();
    const onAbort = (): void => ended.resolve(undefined);
    signal.addEventListener("abort", onAbort, { once: true });
    let engine: Engine | undefined;
    try {
      const onFetch = (progress: number): void => this.#apply({ kind: "progress", phase: "fetching", progress });
      const modelPath = await fetchModel(this.desired, onFetch, signal);
      const createEngine = await engineFor(this.desired);
      if (signal.aborted) return undefined;
      const { prefixes } = this.#parts;
      engine = createEngine({
        prefixes: prefixes && { ...prefixes, onChange: (news) => this.#onPrefixes(news) },
        replica: this.desired,
        modelPath,
        logger: this.#logger,
        onStep: (events) => this.#onStep(events),
        onFailed: (error) => ended.resolve(error),
      });
      const loading = engine.load((phase, progress) => this.#apply({ kind: "progress", phase, progress }));
      const capabilities = await Promise.race([loading, ended.promise]);
      if (capabilities === undefined || capabilities instanceof MeshError) {
        // The engine ended first; what its load says now is its echo.
        loading.catch((error: unknown) => this.#logger.debug("load ended after its engine", { error }));
        return this.#failed(capabilities);
      }
      this.#engine = engine;
      this.#apply({ kind: "loaded", capabilities });
      this.#logger.info("replica ready", { restarts: this.#engineRestarts });
      const failure = await ended.promise;
      if (failure !== undefined) this.#engineRestarts++;
      return this.#failed(failure);
    } catch (error) {
      return this.#failed(MeshError.from(error));
    } finally {
      signal.removeEventListener("abort", onAbort);
      this.#engine = undefined;
      await engine?.close().catch((error: unknown) => this.#logger.warn("engine did not close", { error }));
      this.#endOrphans();
      this.#forgetPrefixes();
    }
  }

  #onPrefixes(news: PrefixNews): void {
    for (const hash of news.added) this.#held.add(hash);
    for (const hash of news.removed) this.#held.delete(hash);
    this.#parts.prefixes?.onChange(news);
  }

  #forgetPrefixes(): void {
    if (this.#held.size === 0) return;
    this.#held.clear();
    this.#parts.prefixes?.onChange("snapshot");
  }

  /** Said before the engine is closed, which may take a while. */
  #failed(error: MeshError | undefined): MeshError | undefined {
    this.#engine = undefined;
    if (error !== undefined) this.#apply({ kind: "failed", error });
    return error;
  }

  #onStep(events: readonly StepEvent[]): void {
    for (const event of events) {
      const onEvent = this.#sequences.get(event.id);
      if (event.kind === "finished" || event.kind === "failed") this.#forget(event.id);
      onEvent?.(event);
    }
  }

  #forget(id: number): void {
    this.#sequences.delete(id);
    this.#noteIdle();
  }

  /** An engine must end its calls before it ends itself; one that did not must not leave callers waiting. */
  #endOrphans(): void {
    if (this.#sequences.size === 0) return;
    this.#logger.error("engine ended without ending its calls", { calls: this.#sequences.size });
    const error = new MeshError(Reason.ENGINE_FAILED, "The engine that ran the call ended.");
    this.#onStep([...this.#sequences.keys()].map((id) => ({ kind: "failed", id, error, completionTokens: 0 })));
  }

  #isBusy(): boolean {
    return this.#sequences.size > 0 || this.#unary > 0;
  }

  #noteIdle(): void {
    if (!this.#isBusy()) this.#whenIdle?.();
  }

  #apply(event: ReplicaEvent): void {
    const before = this.#state;
    const next = transition(before, event);
    if (next === before) return;
    this.#state = next;
    const progress = "progress" in next ? next.progress : 0;
    if (event.kind === "progress" && next.kind === before.kind) return this.#pace.moved(progress);
    this.#pace.restart(progress);
    this.#parts.onChange();
  }
}

import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import {
  type CountTokensRequest,
  CountTokensRequestSchema,
  type CountTokensResponse,
  CountTokensResponseSchema,
  type EmbedRequest,
  EmbedRequestSchema,
  type EmbedResponse,
  EmbedResponseSchema,
  GenerateRequestSchema,
  type TokenLogprob,
  TokenLogprobSchema,
} from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { type EngineCapabilities, EngineCapabilitiesSchema } from "#gen/helixmesh/type/v1/type_pb.ts";
import type { Clock, Timer } from "#kernel/clock.ts";
import type { Logger } from "#kernel/log.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import type { Engine, EngineLoad, EngineOptions, GenerateCall, StepEvent } from "../engine.ts";
import { type LlamaCppOptions, llamaCppOptions } from "./llama-cpp-options.ts";
import { type CallCommand, type FromWorker, fromWireError, type WireEvent, type WireLogprob } from "./messages.ts";
import { WorkerProcess } from "./worker-process.ts";

export interface LlamaCppParts {
  readonly logger: Logger;
  readonly clock: Clock;
}

type State = "new" | "loading" | "ready" | "failed" | "closed";

interface Pending<T> {
  resolve(value: T): void;
  reject(error: MeshError): void;
}

const noLogprobs: readonly TokenLogprob[] = [];
const idle: EngineLoad = {
  running: 0,
  queued: 0,
  kvUsedTokens: 0n,
  kvTotalTokens: 0n,
  stepTimeUs: 0,
  prefillTokensPerS: 0,
  prefillBacklogTokens: 0n,
};
/** The child frees its memory by ending; one that does not end in this time is killed. */
const closeTimeoutMs = 5_000;

/** llama.cpp in a child process. This side counts calls, bounds the queue and turns a dead child into clear ends. */
export class LlamaCppEngine implements Engine {
  readonly #engineOptions: EngineOptions;
  readonly #parts: LlamaCppParts;
  readonly #calls = new Map<number, { completionTokens: number }>();
  readonly #answers = new Map<number, Pending<Uint8Array>>();
  #nextAnswer = 0;
  #outgoing: CallCommand[] = [];
  #options: LlamaCppOptions | undefined;
  #worker: WorkerProcess | undefined;
  #state: State = "new";
  #loading: Pending<EngineCapabilities> | undefined;
  #onState: ((state: "loading" | "warming", progress: number) => void) | undefined;
  #load = idle;
  /** When the child last ended a step, or began to have something to do. */
  #heardMs = 0;
  #stall: Timer | undefined;

  constructor(options: EngineOptions, parts: LlamaCppParts) {
    this.#engineOptions = options;
    this.#parts = parts;
  }

  /** The child's process id while there is one. */
  get pid(): number | undefined {
    return this.#worker?.pid;
  }

  async load(onState: (state: "loading" | "warming", progress: number) => void): Promise<EngineCapabilities> {
    if (this.#state !== "new") throw new MeshError(Reason.CONFLICT, "This engine was loaded before; make another one.");
    const { replica, modelPath } = this.#engineOptions;
    const options = llamaCppOptions(replica, modelPath);
    this.#options = options;
    this.#state = "loading";
    this.#onState = onState;
    // The first word of llama.cpp comes a process, a library and the file's head later.
    onState("loading", 0);
    const loaded = new Promise<EngineCapabilities>((resolve, reject) => {
      this.#loading = { resolve, reject };
    });
    const logger = this.#parts.logger.child({ replica: replica.replicaId });
    this.#worker = new WorkerProcess(options.samplingThreads, logger, {
      onMessage: (message) => this.#receive(message, logger),
      onExit: (why, lastOutput) => this.#exited(why, lastOutput, logger),
    });
    const { prefixes } = this.#engineOptions;
    const told = prefixes && { blockBytes: prefixes.blockBytes, maxBlocks: prefixes.maxBlocks };
    this.#worker.send({ kind: "load", options, prefixes: told });
    return loaded;
  }

  generate(call: GenerateCall): void {
    const refusal = this.#refusal();
    if (refusal) {
      // Never within this call: the caller notes the call after making it.
      queueMicrotask(() =>
        this.#engineOptions.onStep([{ kind: "failed", id: call.id, error: refusal, completionTokens: 0 }]),
      );
      return;
    }
    if (this.#calls.size === 0) this.#heardMs = this.#parts.clock.monotonicMs();
    this.#calls.set(call.id, { completionTokens: call.generated.length });
    this.#watch();
    const request = toBinary(GenerateRequestSchema, call.request);
    const generated = Uint32Array.from(call.generated);
    this.#command({ kind: "generate", id: call.id, choiceIndex: call.choiceIndex, request, generated });
  }

  cancel(id: number): void {
    if (this.#calls.has(id)) this.#command({ kind: "cancel", id });
  }

  async embed(request: EmbedRequest): Promise<EmbedResponse> {
    const bytes = toBinary(EmbedRequestSchema, request);
    return fromBinary(EmbedResponseSchema, await this.#ask("embed", bytes));
  }

  async countTokens(request: CountTokensRequest): Promise<CountTokensResponse> {
    const bytes = toBinary(CountTokensRequestSchema, request);
    return fromBinary(CountTokensResponseSchema, await this.#ask("count", bytes));
  }

  readLoad(): EngineLoad {
    const { running, queued } = this.#load;
    // Calls on their way to the child wait too.
    return { ...this.#load, queued: Math.max(queued, this.#calls.size - running) };
  }

  async close(): Promise<void> {
    const worker = this.#worker;
    if (this.#state !== "closed") {
      this.#state = "closed";
      this.#endAll(new MeshError(Reason.DRAINING, "The replica is being stopped; the call may be repeated elsewhere."));
      worker?.send({ kind: "close" });
    }
    if (!worker) return;
    const timer = this.#parts.clock.setTimer(closeTimeoutMs, () => worker.kill("it did not end by itself"));
    await worker.exited;
    timer.cancel();
  }

  #refusal(): MeshError | undefined {
    switch (this.#state) {
      case "ready":
        break;
      case "closed":
        return new MeshError(Reason.DRAINING, "The replica is being stopped; the call may be repeated elsewhere.");
      case "failed":
        return new MeshError(Reason.ENGINE_FAILED, "The engine's process has died; the call may be repeated.");
      case "new":
      case "loading":
        return new MeshError(Reason.NO_READY_REPLICA, "The replica is still loading; try again.");
    }
    const { parallelSequences, maxQueued } = this.#options ?? { parallelSequences: 0, maxQueued: 0 };
    const most = parallelSequences + maxQueued;
    if (this.#calls.size < most) return undefined;
    const message = `The engine runs ${parallelSequences} sequences and ${maxQueued} more wait already; try again later.`;
    return new MeshError(Reason.OVERLOADED, message, { limit: `${most} sequences` });
  }

  /** One timer while there are calls, set anew at most once in a stall's time: a timer for each step would cost. */
  #watch(): void {
    if (this.#stall) return;
    const { clock } = this.#parts;
    const stallMs = this.#options?.stallMs ?? 0;
    const check = (): void => {
      this.#stall = undefined;
      if (this.#calls.size === 0) return;
      if (clock.monotonicMs() - this.#heardMs >= stallMs)
        this.#worker?.kill(`it ended no decode step for ${stallMs} ms`);
      else this.#watch();
    };
    this.#stall = clock.setTimer(this.#heardMs + stallMs - clock.monotonicMs(), check, { unref: true });
  }

  /** Commands of one event-loop turn travel as one message. */
  #command(command: CallCommand): void {
    this.#outgoing.push(command);
    if (this.#outgoing.length > 1) return;
    setImmediate(() => {
      this.#worker?.send({ kind: "calls", calls: this.#outgoing });
      this.#outgoing = [];
    });
  }

  #ask(kind: "embed" | "count", request: Uint8Array): Promise<Uint8Array> {
    return new Promise((resolve, reject) => {
      if (this.#state !== "ready") return reject(this.#refusal());
      const most = this.#options?.maxQueued ?? 0;
      if (kind === "embed" && this.#answers.size >= Math.max(1, most)) {
        return reject(
          new MeshError(Reason.OVERLOADED, `${most} requests wait already; try again later.`, {
            limit: `${most} requests`,
          }),
        );
      }
      const id = this.#nextAnswer++;
      this.#answers.set(id, { resolve, reject });
      this.#worker?.send({ kind, id, request });
    });
  }

  #receive(message: FromWorker, logger: Logger): void {
    switch (message.kind) {
      case "step":
        this.#load = message.load;
        this.#heardMs = this.#parts.clock.monotonicMs();
        return this.#step(message.events);
      case "prefixes":
        if (this.#state === "ready") this.#engineOptions.prefixes?.onChange(message.news);
        return;
      case "answer":
        this.#answers.get(message.id)?.resolve(message.response);
        this.#answers.delete(message.id);
        return;
      case "refused":
        this.#answers.get(message.id)?.reject(fromWireError(message.error));
        this.#answers.delete(message.id);
        return;
      case "log":
        return logger.debug("llama.cpp", { level: message.level, output: message.message.trimEnd() });
      case "progress":
        return this.#onState?.(message.state, message.share);
      case "loaded":
        if (this.#state === "loading") this.#state = "ready";
        return this.#loaded(fromBinary(EngineCapabilitiesSchema, message.capabilities));
      case "refused-load":
        this.#failLoad(fromWireError(message.error));
        this.#worker?.send({ kind: "close" });
        return;
    }
  }

  #loaded(capabilities: EngineCapabilities): void {
    const { contextTokens, parallelSequences } = capabilities;
    this.#load = { ...idle, kvTotalTokens: BigInt(contextTokens * parallelSequences) };
    this.#loading?.resolve(capabilities);
    this.#loading = undefined;
  }

  #step(events: readonly WireEvent[]): void {
    const steps: StepEvent[] = [];
    for (const event of events) {
      const call = this.#calls.get(event.id);
      // Its end was told already, by close.
      if (!call) continue;
      if (event.kind === "tokens") call.completionTokens += event.tokenIds.length;
      if (event.kind === "finished" || event.kind === "failed") this.#calls.delete(event.id);
      steps.push(stepEvent(event));
    }
    if (steps.length > 0) this.#engineOptions.onStep(steps);
  }

  #exited(why: string, lastOutput: string, logger: Logger): void {
    if (this.#state === "closed") return;
    logger.warn("the llama.cpp process ended", { why, calls: this.#calls.size, output: lastOutput.trimEnd() });
    const error = new MeshError(
      Reason.ENGINE_FAILED,
      `The llama.cpp process ended (${why}); the call may be repeated.`,
    );
    const loading = this.#loading !== undefined;
    const failed = this.#state === "failed";
    this.#failLoad(error);
    this.#state = "failed";
    this.#endAll(error);
    if (!loading && !failed) this.#engineOptions.onFailed(error);
  }

  #failLoad(error: MeshError): void {
    if (!this.#loading) return;
    this.#state = "failed";
    this.#loading.reject(error);
    this.#loading = undefined;
  }

  #endAll(error: MeshError): void {
    this.#load = idle;
    this.#outgoing = [];
    this.#stall?.cancel();
    this.#stall = undefined;
    this.#loading?.reject(error);
    this.#loading = undefined;
    for (const pending of this.#answers.values()) pending.reject(error);
    this.#answers.clear();
    const ends = [...this.#calls].map(([id, { completionTokens }]): StepEvent => ({
      kind: "failed",
      id,
      error,
      completionTokens,
    }));
    this.#calls.clear();
    if (ends.length > 0) this.#engineOptions.onStep(ends);
  }
}

function stepEvent(event: WireEvent): StepEvent {
  switch (event.kind) {
    case "tokens": {
      const { kind, id, text, tokenIds } = event;
      return { kind, id, text, tokenIds, logprobs: event.logprobs?.map(tokenLogprob) ?? noLogprobs };
    }
    case "failed":
      return { ...event, error: fromWireError(event.error) };
    case "started":
    case "finished":
      return event;
  }
}

function tokenLogprob(wire: WireLogprob): TokenLogprob {
  return create(TokenLogprobSchema, { ...wire, top: wire.top.map(tokenLogprob) });
}

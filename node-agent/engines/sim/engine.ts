import { create } from "@bufbuild/protobuf";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import {
  type CountTokensRequest,
  type CountTokensResponse,
  CountTokensResponseSchema,
  type EmbedRequest,
  type EmbedResponse,
  EmbedResponseSchema,
  FinishReason,
  type GenerateRequest,
} from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { DesiredReplicaSchema } from "#gen/helixmesh/node/v1/node_pb.ts";
import { type EngineCapabilities, EngineCapabilitiesSchema } from "#gen/helixmesh/type/v1/type_pb.ts";
import { type Clock, type Timer, sleep } from "#kernel/clock.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { promptBlocks } from "#kernel/prompt-blocks.ts";
import type { Random } from "#kernel/random.ts";
import { StopMatcher } from "../../output/stop-strings.ts";
import { cannotContinue } from "../continuation.ts";
import type { Engine, EngineLoad, EngineOptions, GenerateCall, StepEvent } from "../engine.ts";
import {
  type TokenState,
  advance,
  embedTokens,
  initialState,
  logprobOf,
  nextToken,
  pieceOf,
  simVocabularySize,
} from "./language.ts";
import { type SimOptions, readSimOptions } from "./options.ts";
import { PrefixCache } from "./prefix-cache.ts";
import { type SimRequest, promptTokens, readSimRequest } from "./request.ts";

interface Sequence {
  readonly id: number;
  readonly request: SimRequest;
  readonly stops: StopMatcher;
  /** Of its prompt; none while nobody wants to know what the cache holds. */
  readonly blocks: Uint32Array;
  state: TokenState;
  prefillLeft: number;
  generated: number;
  /** Tokens that came with the call, until it is admitted. */
  replay: readonly number[];
  cancelled: boolean;
}

/** KV cells that a prompt block is taken to need when the cache's size is modelled. */
const tokensOfBlock = 64;
const noBlocks = new Uint32Array(0);

/** Between two words of how far the loading is, at the least. */
const loadStepMs = 50;

/** Engine time that one turn of the event loop may catch up, milliseconds; more is forgiven, as a stalled host would. */
const mostCatchUpMs = 100;

/**
 * A simulated engine with continuous batching. One step evaluates up to `prefill_chunk_tokens` of waiting prompts,
 * oldest first, and one token of every sequence whose prompt is done; it takes
 *
 *     step_base_us + step_per_sequence_us × decoding sequences + chunk ÷ prefill_tokens_per_s
 *
 * of engine time, times `time_scale` of wall time. A sequence is admitted when a place in the batch and KV cells for
 * its prompt and all its output are free; until then it queues, first come first served.
 */
export class SimEngine implements Engine {
  readonly #clock: Clock;
  readonly #random: Random;
  readonly #engine: EngineOptions;
  /** The replica's own once loaded. */
  #options: SimOptions = readSimOptions(create(DesiredReplicaSchema));
  #queue: Sequence[] = [];
  #running: Sequence[] = [];
  readonly #byId = new Map<number, Sequence>();
  #prefixes: { readonly cache: PrefixCache; blocks(request: GenerateRequest): Uint32Array } | undefined;
  #kvReserved = 0;
  #kvUsed = 0;
  #stepUs = 0;
  #prefillMeasured = 0;
  #generated = 0;
  #dueMs = 0;
  #chunk: { sequence: Sequence; tokens: number }[] = [];
  #timer: Timer | undefined;
  #looping = false;
  #life: "new" | "open" | "closed" = "new";

  constructor(engine: EngineOptions, parts: { readonly clock: Clock; readonly random: Random }) {
    this.#engine = engine;
    this.#clock = parts.clock;
    this.#random = parts.random;
  }

  async load(onState: (state: "loading" | "warming", progress: number) => void): Promise<EngineCapabilities> {
    this.#options = readSimOptions(this.#engine.replica);
    const { prefixes } = this.#engine;
    if (prefixes) {
      const most = Math.min(prefixes.maxBlocks, Math.floor(this.#options.kvTokens / tokensOfBlock));
      const blocks = (request: GenerateRequest): Uint32Array => promptBlocks(request, prefixes.blockBytes, most + 1);
      this.#prefixes = { cache: new PrefixCache(most), blocks };
    }
    await this.#simulateLoading((progress) => onState("loading", progress));
    onState("warming", 1);
    if (this.#life === "closed") throw closedError();
    this.#life = "open";
    const { contextTokens, parallelSequences, embeddingDimensions } = this.#options;
    return create(EngineCapabilitiesSchema, {
      generate: true,
      embed: true,
      logprobs: true,
      chat: true,
      tools: true,
      seed: true,
      seedByPosition: true,
      contextTokens,
      parallelSequences,
      embeddingDimensions,
    });
  }

  /** Says its progress by the per cent, or as often as anyone can use it. */
  async #simulateLoading(onProgress: (share: number) => void): Promise<void> {
    const totalMs = this.#options.loadMs * this.#options.timeScale;
    const steps = Math.min(100, Math.ceil(totalMs / loadStepMs));
    onProgress(0);
    for (let step = 1; step <= steps && this.#life !== "closed"; step++) {
      await sleep(this.#clock, totalMs / steps);
      onProgress(step / steps);
    }
  }

  generate(call: GenerateCall): void {
    if (this.#life !== "open") throw closedError();
    const { queueLimit, parallelSequences } = this.#options;
    const request = readSimRequest(call.request, call.choiceIndex, this.#options, this.#random);
    const free = Math.max(0, parallelSequences - this.#running.length);
    if (this.#queue.length >= queueLimit + free) {
      throw new MeshError(
        Reason.OVERLOADED,
        `The engine's queue holds ${queueLimit} calls and is full; try again later.`,
        {
          limit: `${queueLimit} calls`,
        },
      );
    }
    const { generated } = call;
    const impossible = generated.find((token) => token >= simVocabularySize);
    if (impossible !== undefined) throw cannotContinue(`token id ${impossible} is not in its vocabulary`);
    if (generated.length > request.maxTokens) throw cannotContinue("it has more tokens than it may");
    const sequence: Sequence = {
      id: call.id,
      request,
      stops: new StopMatcher(call.request.stop),
      blocks: this.#prefixes?.blocks(call.request) ?? noBlocks,
      state: generated.reduce(advance, initialState(request.prompt, request.seed)),
      prefillLeft: request.prompt.length + generated.length,
      generated: generated.length,
      replay: generated,
      cancelled: false,
    };
    this.#queue.push(sequence);
    this.#byId.set(call.id, sequence);
    this.#startLoop();
  }

  cancel(id: number): void {
    const sequence = this.#byId.get(id);
    if (sequence !== undefined) sequence.cancelled = true;
  }

  async embed(request: EmbedRequest): Promise<EmbedResponse> {
    if (this.#life !== "open") throw closedError();
    let tokens = 0;
    const embeddings = request.inputs.map(({ input }, index) => {
      const ids = promptTokens(input);
      if (ids.length === 0) {
        const field = `inputs[${index}]`;
        throw new MeshError(Reason.INVALID_REQUEST, `${field} is empty; there is nothing to embed.`, { field });
      }
      tokens += ids.length;
      return { values: embedTokens(ids, this.#options.embeddingDimensions) };
    });
    const { prefillTokensPerS, timeScale } = this.#options;
    if (timeScale > 0) await sleep(this.#clock, (tokens / prefillTokensPerS) * 1_000 * timeScale);
    return create(EmbedResponseSchema, { embeddings, usage: { promptTokens: tokens } });
  }

  async countTokens(request: CountTokensRequest): Promise<CountTokensResponse> {
    const tokenIds = [...promptTokens(request.input)];
    return create(CountTokensResponseSchema, { promptTokens: tokenIds.length, tokenIds });
  }

  readLoad(): EngineLoad {
    let backlog = 0;
    for (const sequence of this.#running) backlog += sequence.prefillLeft;
    return {
      running: this.#running.length,
      queued: this.#queue.length,
      kvUsedTokens: BigInt(this.#kvUsed),
      kvTotalTokens: BigInt(this.#options.kvTokens),
      stepTimeUs: Math.round(this.#stepUs),
      prefillTokensPerS: this.#prefillMeasured,
      prefillBacklogTokens: BigInt(backlog),
    };
  }

  async close(): Promise<void> {
    if (this.#life === "closed") return;
    this.#life = "closed";
    this.#timer?.cancel();
    this.#endAll(closedError());
  }

  #startLoop(): void {
    if (this.#looping) return;
    this.#looping = true;
    this.#dueMs = this.#clock.monotonicMs();
    // Not within generate(): its caller must know the call before the first event comes.
    this.#after(0, () => this.#begin());
  }

  #after(delayMs: number, action: () => void): void {
    if (this.#options.timeScale === 0) setImmediate(action);
    else this.#timer = this.#clock.setTimer(delayMs, action);
  }

  /** Admits, then lets the step take its time. */
  #begin(): void {
    for (;;) {
      if (this.#life !== "open") return;
      this.#admit();
      if (this.#running.length === 0) {
        this.#looping = false;
        return;
      }
      const durationUs = this.#planStep();
      this.#stepUs = this.#stepUs === 0 ? durationUs : this.#stepUs * 0.9 + durationUs * 0.1;
      const { timeScale } = this.#options;
      const nowMs = this.#clock.monotonicMs();
      this.#dueMs = Math.max(this.#dueMs, nowMs - mostCatchUpMs) + (durationUs / 1_000) * timeScale;
      // Steps that are due already are taken at once: timers are coarser than a fast engine's steps.
      if (timeScale === 0 || this.#dueMs > nowMs) {
        this.#after(this.#dueMs - nowMs, () => {
          this.#finishStep();
          this.#begin();
        });
        return;
      }
      this.#finishStep();
    }
  }

  #admit(): void {
    const events: StepEvent[] = [];
    const { kvTokens, parallelSequences } = this.#options;
    let taken = 0;
    for (const sequence of this.#queue) {
      const need = sequence.request.prompt.length + sequence.request.maxTokens;
      if (sequence.cancelled) {
        events.push(this.#end(sequence, { kind: "failed", error: cancelledError() }));
      } else if (this.#running.length < parallelSequences && this.#kvReserved + need <= kvTokens) {
        this.#running.push(sequence);
        this.#kvReserved += need;
        const cachedTokens = this.#cachedTokens(sequence);
        sequence.prefillLeft -= cachedTokens;
        this.#kvUsed += cachedTokens;
        events.push({
          kind: "started",
          id: sequence.id,
          promptTokens: sequence.request.prompt.length,
          cachedTokens,
        });
        if (sequence.replay.length > 0) this.#replay(sequence, events);
      } else break;
      taken++;
    }
    // Those behind one that waits may have been cancelled too.
    const rest = taken === 0 ? this.#queue : this.#queue.slice(taken);
    this.#queue = rest;
    if (rest.some((sequence) => sequence.cancelled)) {
      for (const sequence of rest) {
        if (sequence.cancelled) events.push(this.#end(sequence, { kind: "failed", error: cancelledError() }));
      }
      this.#queue = rest.filter((sequence) => !sequence.cancelled);
    }
    if (events.length > 0) this.#engine.onStep(events);
  }

  /** In proportion to the blocks that are held: bytes are not tokens. The last token is always evaluated. */
  #cachedTokens({ blocks, request }: Sequence): number {
    const matched = this.#prefixes?.cache.matched(blocks) ?? 0;
    return Math.floor((request.prompt.length * matched) / (blocks.length + 1));
  }

  /** Says the text of the tokens that came with the call again, and ends the call if they ended it. */
  #replay(sequence: Sequence, events: StepEvent[]): void {
    const { stops, generated, request } = sequence;
    const { text, stopped } = stops.push(sequence.replay.map(pieceOf).join(""));
    sequence.replay = [];
    const full = !stopped && generated >= request.maxTokens;
    const whole = text + (full ? stops.flush() : "");
    events.push({ kind: "tokens", id: sequence.id, text: whole, tokenIds: [], logprobs: [] });
    if (!stopped && !full) return;
    const reason = stopped || request.lengthIsNatural ? FinishReason.STOP : FinishReason.LENGTH;
    events.push(this.#endRunning(sequence, { kind: "finished", reason }));
    this.#running.pop();
  }

  /** Chooses the prompts of the coming step; returns its duration in microseconds of engine time. */
  #planStep(): number {
    const { prefillChunkTokens, prefillTokensPerS, stepBaseUs, stepPerSequenceUs } = this.#options;
    let room = prefillChunkTokens;
    let decoding = 0;
    this.#chunk = [];
    for (const sequence of this.#running) {
      if (sequence.prefillLeft === 0) decoding++;
      else if (room > 0) {
        const tokens = Math.min(room, sequence.prefillLeft);
        room -= tokens;
        this.#chunk.push({ sequence, tokens });
      }
    }
    const chunkTokens = prefillChunkTokens - room;
    if (chunkTokens > 0) this.#prefillMeasured = prefillTokensPerS;
    return stepBaseUs + stepPerSequenceUs * decoding + (chunkTokens / prefillTokensPerS) * 1e6;
  }

  #finishStep(): void {
    if (this.#life !== "open") return;
    const events: StepEvent[] = [];
    let ended = false;
    for (const sequence of this.#running) {
      if (sequence.cancelled) {
        events.push(this.#endRunning(sequence, { kind: "failed", error: cancelledError() }));
        ended = true;
      } else if (sequence.prefillLeft === 0) {
        const reason = this.#decode(sequence, events);
        if (reason !== FinishReason.UNSPECIFIED) {
          events.push(this.#endRunning(sequence, { kind: "finished", reason }));
          ended = true;
        }
      }
    }
    for (const { sequence, tokens } of this.#chunk) {
      if (sequence.cancelled) continue;
      sequence.prefillLeft -= tokens;
      this.#kvUsed += tokens;
      if (sequence.prefillLeft === 0) this.#prefixes?.cache.hold(sequence.blocks);
    }
    this.#chunk = [];
    const news = this.#prefixes?.cache.take();
    if (news) this.#engine.prefixes?.onChange(news);
    if (ended) this.#running = this.#running.filter((sequence) => this.#byId.has(sequence.id));
    if (events.length > 0) this.#engine.onStep(events);
    const { crashAfterTokens } = this.#options;
    if (crashAfterTokens > 0 && this.#generated >= crashAfterTokens) this.#crash();
  }

  #decode(sequence: Sequence, events: StepEvent[]): FinishReason {
    const { request, state } = sequence;
    const token = nextToken(state);
    const logprobs = request.topLogprobs === undefined ? [] : [logprobOf(state, token, request.topLogprobs)];
    sequence.state = advance(state, token);
    sequence.generated++;
    this.#generated++;
    this.#kvUsed++;
    const { text, stopped } = sequence.stops.push(pieceOf(token));
    const full = !stopped && sequence.generated >= request.maxTokens;
    const rest = full ? sequence.stops.flush() : "";
    events.push({ kind: "tokens", id: sequence.id, text: text + rest, tokenIds: [token], logprobs });
    if (stopped) return FinishReason.STOP;
    if (!full) return FinishReason.UNSPECIFIED;
    return request.lengthIsNatural ? FinishReason.STOP : FinishReason.LENGTH;
  }

  #endRunning(sequence: Sequence, how: Ending): StepEvent {
    const { prompt, maxTokens } = sequence.request;
    this.#kvReserved -= prompt.length + maxTokens;
    this.#kvUsed -= prompt.length - sequence.prefillLeft + sequence.generated;
    return this.#end(sequence, how);
  }

  #end(sequence: Sequence, how: Ending): StepEvent {
    this.#byId.delete(sequence.id);
    return { ...how, id: sequence.id, completionTokens: sequence.generated };
  }

  #endAll(error: MeshError): void {
    const events = [...this.#byId.values()].map((sequence) => this.#end(sequence, { kind: "failed", error }));
    this.#running = [];
    this.#queue = [];
    this.#kvReserved = 0;
    this.#kvUsed = 0;
    if (events.length > 0) this.#engine.onStep(events);
  }

  #crash(): void {
    this.#life = "closed";
    const error = new MeshError(Reason.ENGINE_FAILED, "The simulated engine crashed, as crash_after_tokens asks.");
    this.#endAll(error);
    this.#engine.onFailed(error);
  }
}

type Ending =
  | { readonly kind: "failed"; readonly error: MeshError }
  | { readonly kind: "finished"; readonly reason: FinishReason };

function cancelledError(): MeshError {
  return new MeshError(Reason.CANCELLED, "The call was cancelled.");
}

function closedError(): MeshError {
  return new MeshError(Reason.DRAINING, "The replica is being removed from this node; try another one.");
}

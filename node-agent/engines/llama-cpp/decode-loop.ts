import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import type { Clock } from "#kernel/clock.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import type { EngineLoad } from "../engine.ts";
import type { PrefixNews } from "../prefix-news.ts";
import { nextBatch } from "./batch.ts";
import { chooseLane } from "./lane-choice.ts";
import type { LanePrefixes } from "./lane-prefixes.ts";
import { toWireError, type WireEvent } from "./messages.ts";
import type { Plan } from "./plan.ts";
import { Lane, Sequence, type SequenceParts } from "./sequence.ts";
import { StepOutlet } from "./step-outlet.ts";

export interface DecodeLoopOptions extends SequenceParts {
  readonly parallelSequences: number;
  readonly contextTokens: number;
  readonly batchTokens: number;
  /** Whether the binding does what it is told in order, one thing at a time: then draws are queued behind their decode. */
  readonly inOrder: boolean;
  readonly clock: Clock;
  /** All that one decode step brought, or several short ones, in one call. */
  onStep(events: readonly WireEvent[], load: EngineLoad): void;
  /** Undefined where nobody wants to know what the cache holds. */
  readonly prefixes: LanePrefixes | undefined;
  onPrefixes(news: PrefixNews): void;
  /** The context is broken; nothing more can be decoded. */
  onBroken(error: unknown): void;
}

interface Waiting {
  readonly id: number;
  readonly plan: Plan;
}

interface Drawn {
  readonly sequence: Sequence;
  readonly events: readonly WireEvent[];
  /** The sequence is over. */
  readonly ended: boolean;
}

/** How much one new measurement moves an average. */
const weight = 0.1;

/**
 * Continuous batching: every step evaluates one token of each running sequence and, in what room the batch has left,
 * the next part of each prompt. Sequences join and leave between steps.
 */
export class DecodeLoop {
  readonly #options: DecodeLoopOptions;
  readonly #lanes: Lane[];
  /** By priority, then by arrival. */
  readonly #waiting: Waiting[] = [];
  readonly #outlet: StepOutlet;
  #stepTimeUs = 0;
  #prefillRate = 0;
  #running = false;
  #admissions = 0;
  /** The step before evaluated a block of an exact prompt. */
  #afterBlock = false;

  constructor(options: DecodeLoopOptions) {
    this.#options = options;
    this.#outlet = new StepOutlet(options.clock, (events) => options.onStep(events, this.#load()));
    this.#lanes = Array.from(
      { length: options.parallelSequences },
      (_, index) => new Lane(index, options.contextTokens),
    );
  }

  submit(id: number, plan: Plan): void {
    const behind = this.#waiting.findLastIndex((other) => other.plan.priority >= plan.priority);
    this.#waiting.splice(behind + 1, 0, { id, plan });
    this.#start();
  }

  /** For what ends before it begins. */
  refuse(id: number, error: MeshError): void {
    this.#outlet.push({ kind: "failed", id, error: toWireError(error), completionTokens: 0 });
    this.#start();
  }

  cancel(id: number): void {
    const at = this.#waiting.findIndex((other) => other.id === id);
    if (at >= 0) {
      this.#waiting.splice(at, 1);
      this.refuse(id, cancelled());
      return;
    }
    const lane = this.#lanes.find((lane) => lane.sequence?.id === id);
    if (lane?.sequence) lane.sequence.cancelled = true;
  }

  #start(): void {
    if (this.#running) return;
    this.#running = true;
    this.#run().catch((error: unknown) => this.#options.onBroken(error));
  }

  async #run(): Promise<void> {
    // Commands that arrive in the same turn share the first batch.
    await new Promise<void>((resolve) => setImmediate(resolve));
    for (;;) {
      this.#endCancelled();
      this.#admit();
      const busy = this.#lanes.some((lane) => lane.sequence);
      if (!busy) break;
      await this.#step();
    }
    this.#outlet.flush();
    this.#tellPrefixes();
    this.#running = false;
  }

  #endCancelled(): void {
    for (const { sequence } of this.#lanes) {
      if (!sequence?.cancelled) continue;
      this.#outlet.push(sequence.failed(cancelled()));
      sequence.dispose();
    }
  }

  #admit(): void {
    for (;;) {
      const next = this.#waiting[0];
      if (!next) return;
      const choice = chooseLane(this.#lanes, next.plan);
      if (!choice) return;
      this.#waiting.shift();
      const { lane } = choice;
      const { promptTokens } = next.plan;
      const cachedTokens = this.#keepPrefix(lane, choice.shared);
      lane.begin(next.plan, cachedTokens, ++this.#admissions);
      this.#options.prefixes?.set(lane.index, next.plan.blocks, cachedTokens, promptTokens.length);
      const sequence = new Sequence(next.id, next.plan, lane, this.#options);
      lane.sequence = sequence;
      this.#outlet.push({ kind: "started", id: next.id, promptTokens: promptTokens.length, cachedTokens });
      if (next.plan.echo !== "") this.#outlet.push({ kind: "tokens", id: next.id, text: next.plan.echo, tokenIds: [] });
      const replayed: WireEvent[] = [];
      if (sequence.replay(replayed)) sequence.dispose();
      for (const event of replayed) this.#outlet.push(event);
    }
  }

  /** Erases all but the shared prefix; a model whose state cannot be cut (a recurrent one) starts anew. */
  #keepPrefix(lane: Lane, shared: number, padded = false): number {
    if (lane.evaluated === shared && !padded) return shared;
    const { context } = this.#options;
    if (shared > 0 && context.removeTokenCellsFromSequence(lane.index, shared, -1)) return shared;
    context.disposeSequence(lane.index);
    this.#options.prefixes?.set(lane.index, new Uint32Array(0), 0, 1);
    return 0;
  }

  async #step(): Promise<void> {
    const { context, clock, inOrder } = this.#options;
    const batch = nextBatch(this.#lanes, this.#options.batchTokens, this.#afterBlock);
    const { parts, padding, prefillTokens, exactBlock } = batch;
    this.#afterBlock = exactBlock;
    context.initBatch(parts.reduce((sum, { count }) => sum + count, padding.length));
    const draws: { sequence: Sequence; logitIndex: number }[] = [];
    for (const { lane, count } of parts) {
      const from = lane.evaluated;
      const complete = from + count === lane.length;
      const wanted = complete ? Uint32Array.of(count - 1) : new Uint32Array(0);
      const indexes = context.addToBatch(lane.index, from, lane.tokens.subarray(from, from + count), wanted);
      if (complete && lane.sequence) draws.push({ sequence: lane.sequence, logitIndex: indexes[0] ?? 0 });
    }
    for (const lane of padding) context.addToBatch(lane.index, lane.evaluated, Uint32Array.of(0), new Uint32Array(0));
    const startedMs = clock.monotonicMs();
    const decoded = context.decodeBatch();
    const draw = (): Promise<Drawn>[] =>
      draws.map(async ({ sequence, logitIndex }) => {
        const events: WireEvent[] = [];
        return { sequence, events, ended: await sequence.draw(logitIndex, events) };
      });
    const queued = inOrder ? draw() : undefined;
    // What the step before brought travels while the next one computes.
    this.#outlet.stepEnded();
    await decoded;
    const decodedMs = clock.monotonicMs();
    for (const { lane, count } of parts) this.#noteEvaluated(lane, count);
    for (const lane of padding) lane.evaluated = this.#keepPrefix(lane, lane.evaluated, true);
    if (exactBlock) for (const { lane } of parts) lane.noteExact();
    const outcomes = await Promise.all(queued ?? draw());
    for (const { sequence, events, ended } of outcomes) {
      for (const event of events) this.#outlet.push(event);
      if (ended) sequence.dispose();
    }
    if (prefillTokens > 0) {
      this.#tellPrefixes();
      const perSecond = (prefillTokens * 1_000) / Math.max(0.001, decodedMs - startedMs);
      this.#prefillRate = average(this.#prefillRate, perSecond);
    } else {
      this.#stepTimeUs = average(this.#stepTimeUs, (clock.monotonicMs() - startedMs) * 1_000);
    }
  }

  #noteEvaluated(lane: Lane, count: number): void {
    const { prefixes } = this.#options;
    const prompt = lane.sequence?.plan.promptTokens.length ?? 0;
    if (prefixes && lane.evaluated < prompt) {
      const held = Math.min(prompt, lane.evaluated + count);
      prefixes.set(lane.index, lane.sequence?.plan.blocks ?? new Uint32Array(0), held, prompt);
    }
    lane.evaluated += count;
  }

  /** Once what was evaluated is in the cache, and seldom more than once a prompt. */
  #tellPrefixes(): void {
    const news = this.#options.prefixes?.take();
    if (news) this.#options.onPrefixes(news);
  }

  #load(): EngineLoad {
    const { parallelSequences, contextTokens } = this.#options;
    const busy = this.#lanes.filter((lane) => lane.sequence);
    const backlog = busy.reduce((sum, lane) => sum + Math.max(0, lane.length - lane.evaluated - 1), 0);
    return {
      running: busy.length,
      queued: this.#waiting.length,
      kvUsedTokens: BigInt(busy.reduce((sum, lane) => sum + lane.evaluated, 0)),
      kvTotalTokens: BigInt(parallelSequences * contextTokens),
      stepTimeUs: Math.round(this.#stepTimeUs),
      prefillTokensPerS: Math.round(this.#prefillRate),
      prefillBacklogTokens: BigInt(backlog),
    };
  }
}

function average(before: number, measured: number): number {
  return before === 0 ? measured : before + weight * (measured - before);
}

function cancelled(): MeshError {
  return new MeshError(Reason.CANCELLED, "The call was cancelled.");
}

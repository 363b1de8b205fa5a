import { blockTokens } from "./routing-trace.ts";

/** The service model of the sim engine (node-agent/engines/sim), with a prefix cache. */
export const nodeModel = {
  prefillTokensPerS: 8_000,
  prefillChunkTokens: 512,
  stepBaseMs: 15,
  stepPerSequenceMs: 0.3,
  parallelSequences: 16,
  kvBlocks: 2_000,
  queueLimit: 32,
} as const;

export interface NodeCall {
  readonly blocks: Uint32Array;
  readonly promptTokens: number;
  readonly outputTokens: number;
  /** Set when the node admits it. */
  cachedTokens: number;
  prefillLeft: number;
  /** The node's count of steps at which its last token comes; set when its prompt is done. */
  endStep: number;
  firstTokenMs: number;
}

export interface NodeEvents {
  admitted(call: NodeCall): void;
  firstToken(call: NodeCall, atMs: number): void;
  ended(call: NodeCall): void;
}

/**
 * One engine, advanced from event to event: between two of them its batch does not change, so that prompts and tokens
 * progress at constant rates. Prompts are evaluated one after another beside the decoding sequences.
 */
export class SimNode {
  readonly index: number;
  readonly #events: NodeEvents;
  readonly queue: NodeCall[] = [];
  readonly prefilling: NodeCall[] = [];
  decoding: NodeCall[] = [];
  /** Hash → whether a prompt has named it; in order of last use. */
  readonly #cache = new Map<number, boolean>();
  #reserved = 0;
  #steps = 0;
  #atMs = 0;
  /** What may have changed in the cache since the last digest. */
  readonly #changed = new Set<number>();
  readonly #told = new Set<number>();

  constructor(index: number, events: NodeEvents) {
    this.index = index;
    this.#events = events;
  }

  get running(): number {
    return this.prefilling.length + this.decoding.length;
  }

  get backlogTokens(): number {
    return this.prefilling.reduce((sum, call) => sum + call.prefillLeft, 0);
  }

  get stepMs(): number {
    const { stepBaseMs, stepPerSequenceMs, prefillChunkTokens, prefillTokensPerS } = nodeModel;
    const prefillMs = this.prefilling.length > 0 ? (prefillChunkTokens / prefillTokensPerS) * 1_000 : 0;
    return stepBaseMs + stepPerSequenceMs * this.decoding.length + prefillMs;
  }

  /** Whole blocks that it holds of the prompt; the last block is evaluated in any case. */
  matched(blocks: Uint32Array): number {
    let low = 0;
    let high = blocks.length + 1;
    while (high - low > 1) {
      const middle = (low + high) >>> 1;
      if (this.#cache.has(blocks[middle - 1] ?? 0)) low = middle;
      else high = middle;
    }
    return low;
  }

  /** What its cache holds of prompts that it did not hold at the last digest, and what no longer. */
  digest(): { readonly added: number[]; readonly removed: number[] } {
    const added: number[] = [];
    const removed: number[] = [];
    for (const hash of this.#changed) {
      const holds = this.#cache.get(hash) === true;
      if (holds === this.#told.has(hash)) continue;
      (holds ? added : removed).push(hash);
      if (holds) this.#told.add(hash);
      else this.#told.delete(hash);
    }
    this.#changed.clear();
    return { added, removed };
  }

  /** False when its queue is full. */
  offer(call: NodeCall, nowMs: number): boolean {
    this.advance(nowMs);
    if (this.queue.length >= nodeModel.queueLimit) return false;
    this.queue.push(call);
    this.#admit();
    return true;
  }

  /** When something next happens by itself. */
  nextMs(): number {
    const stepMs = this.stepMs;
    const head = this.prefilling[0];
    let next = head ? (head.prefillLeft / nodeModel.prefillChunkTokens) * stepMs : Number.POSITIVE_INFINITY;
    for (const call of this.decoding) next = Math.min(next, (call.endStep - this.#steps) * stepMs);
    return this.#atMs + Math.max(0, next);
  }

  /** Milliseconds until `count` of the running calls have ended, at the present speed. */
  nthEndMs(count: number): number {
    const ends = [
      ...this.decoding.map((call) => call.endStep - this.#steps),
      ...this.prefilling.map((call) => call.outputTokens),
    ].sort((a, b) => a - b);
    return (ends[Math.min(count, ends.length) - 1] ?? 0) * this.stepMs;
  }

  advance(nowMs: number): void {
    while (this.#atMs < nowMs || this.#due()) {
      const untilMs = Math.min(nowMs, this.nextMs());
      const steps = (untilMs - this.#atMs) / this.stepMs;
      const [head] = this.prefilling;
      if (head) head.prefillLeft -= steps * nodeModel.prefillChunkTokens;
      this.#steps += steps;
      this.#atMs = untilMs;
      this.#settle();
      if (untilMs === nowMs && !this.#due()) break;
    }
  }

  #due(): boolean {
    return (
      (this.prefilling[0]?.prefillLeft ?? 1) <= 1e-6 || this.decoding.some((call) => call.endStep - this.#steps <= 1e-9)
    );
  }

  #settle(): void {
    const [head] = this.prefilling;
    if (head && head.prefillLeft <= 1e-6) {
      this.prefilling.shift();
      this.decoding.push(head);
      head.endStep = this.#steps + head.outputTokens;
      head.firstTokenMs = this.#atMs + this.stepMs;
      this.#keep(head.blocks, true);
      this.#events.firstToken(head, head.firstTokenMs);
    }
    const done = this.decoding.filter((call) => call.endStep - this.#steps <= 1e-9);
    if (done.length === 0) return;
    this.decoding = this.decoding.filter((call) => !done.includes(call));
    for (const call of done) {
      this.#reserved -= reservation(call);
      this.#events.ended(call);
    }
    this.#admit();
  }

  /** What a finished call leaves in the cache besides its prompt: its answer, which the next turn repeats. */
  keepAnswer(blocks: Uint32Array): void {
    this.#keep(blocks, false);
  }

  #admit(): void {
    for (;;) {
      const [call] = this.queue;
      if (!call || this.running >= nodeModel.parallelSequences) return;
      const matched = this.matched(call.blocks);
      call.cachedTokens = Math.min(matched * blockTokens, call.promptTokens - 1);
      if (this.running > 0 && this.#reserved + reservation(call) > nodeModel.kvBlocks) return;
      this.queue.shift();
      this.#reserved += reservation(call);
      this.#touch(call.blocks.subarray(0, matched));
      this.#shrink();
      call.prefillLeft = call.promptTokens - call.cachedTokens;
      this.prefilling.push(call);
      this.#events.admitted(call);
    }
  }

  #keep(blocks: Uint32Array, prompt: boolean): void {
    for (let i = blocks.length - 1; i >= 0; i--) {
      const hash = blocks[i] ?? 0;
      const known = this.#cache.get(hash);
      if (known !== undefined) this.#cache.delete(hash);
      this.#cache.set(hash, prompt || known === true);
      if (prompt && known !== true) this.#changed.add(hash);
    }
    this.#shrink();
  }

  /** From the end, so that the shortest prefixes are the last to go. */
  #touch(blocks: Uint32Array): void {
    for (let i = blocks.length - 1; i >= 0; i--) {
      const hash = blocks[i] ?? 0;
      const known = this.#cache.get(hash);
      if (known === undefined) continue;
      this.#cache.delete(hash);
      this.#cache.set(hash, known);
    }
  }

  #shrink(): void {
    for (const [hash, prompt] of this.#cache) {
      if (this.#cache.size + this.#reserved <= nodeModel.kvBlocks) return;
      this.#cache.delete(hash);
      if (prompt) this.#changed.add(hash);
    }
  }
}

/** Blocks that a running call takes beside the cached ones. */
function reservation(call: NodeCall): number {
  return Math.ceil((call.promptTokens - call.cachedTokens + call.outputTokens) / blockTokens);
}

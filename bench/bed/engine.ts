import { PrefixCache } from "./prefix-cache.ts";

export interface EngineSettings {
  /** Between two decode steps; 0: as fast as the event loop turns. */
  readonly stepMs: number;
  /** The first token comes at once instead of with the next step, so that time to first token is the proxy's own. */
  readonly firstAtOnce: boolean;
  /** Prompt bytes evaluated a second, one prompt after another; 0: prompts cost nothing. */
  readonly prefillBytesPerS: number;
  /** Prompt blocks whose evaluation is kept; 0: none. */
  readonly cacheBlocks: number;
}

export const idleEngine: EngineSettings = { stepMs: 10, firstAtOnce: false, prefillBytesPerS: 0, cacheBlocks: 0 };

/** Where a call's answer goes. One call a step: Started with the first token, Finished with the last. */
export interface Sink {
  advance(token: { readonly index: number; readonly first: boolean; readonly last: boolean }): void;
}

export interface Prompt {
  readonly bytes: number;
  /** Chained hashes of its blocks; empty where prefixes do not matter. */
  readonly blocks: Uint32Array;
}

interface Sequence {
  readonly sink: Sink;
  readonly tokens: number;
  next: number;
  cancelled: boolean;
}

export interface EngineCall {
  /** Blocks of the prompt that were in the cache. */
  readonly cachedBlocks: number;
  cancel(): void;
}

/**
 * A continuous batch without a model: one token of every sequence a step, on a beat of its own. It does next to nothing
 * else, since it shares its core with all that is not under test.
 */
export class BedEngine {
  readonly cache = new PrefixCache();
  #settings = idleEngine;
  #running: Sequence[] = [];
  #looping = false;
  #dueMs: number;
  #prefillFreeMs = 0;
  /** Shares of a step by which this engine's beat is off the others'. */
  readonly #phase: number;

  constructor(phase: number) {
    this.#phase = phase;
    this.#dueMs = performance.now();
  }

  configure(settings: EngineSettings): void {
    this.#settings = settings;
    this.cache.resize(settings.cacheBlocks);
    this.#dueMs = Math.ceil(performance.now()) + this.#phase * settings.stepMs;
  }

  get running(): number {
    return this.#running.length;
  }

  start(tokens: number, prompt: Prompt, sink: Sink): EngineCall {
    const sequence: Sequence = { sink, tokens, next: 0, cancelled: false };
    const cachedBlocks = this.cache.use(prompt.blocks);
    const { prefillBytesPerS } = this.#settings;
    if (prefillBytesPerS > 0) {
      const share = prompt.blocks.length === 0 ? 1 : 1 - cachedBlocks / prompt.blocks.length;
      const nowMs = performance.now();
      const startMs = Math.max(nowMs, this.#prefillFreeMs);
      this.#prefillFreeMs = startMs + (prompt.bytes * share * 1_000) / prefillBytesPerS;
      setTimeout(() => this.#enter(sequence), this.#prefillFreeMs - nowMs);
    } else {
      this.#enter(sequence);
    }
    return { cachedBlocks, cancel: () => void (sequence.cancelled = true) };
  }

  #enter(sequence: Sequence): void {
    if (this.#settings.firstAtOnce) {
      // Not within start(): its caller must know the call first.
      queueMicrotask(() => {
        if (this.#advance(sequence)) this.#join(sequence);
      });
    } else {
      this.#join(sequence);
    }
  }

  #join(sequence: Sequence): void {
    this.#running.push(sequence);
    if (this.#looping) return;
    this.#looping = true;
    this.#next();
  }

  #next(): void {
    const { stepMs } = this.#settings;
    if (stepMs === 0) return void setImmediate(() => this.#step());
    const nowMs = performance.now();
    // The beat goes on while nothing runs, and steps that were missed are forgiven.
    if (this.#dueMs <= nowMs) this.#dueMs += Math.ceil((nowMs - this.#dueMs) / stepMs) * stepMs;
    setTimeout(() => this.#step(), this.#dueMs - nowMs);
  }

  #step(): void {
    const { stepMs } = this.#settings;
    this.#dueMs += stepMs;
    const kept: Sequence[] = [];
    for (const sequence of this.#running) if (this.#advance(sequence)) kept.push(sequence);
    this.#running = kept;
    this.#looping = kept.length > 0;
    if (this.#looping) this.#next();
  }

  /** False when that was its last token. */
  #advance(sequence: Sequence): boolean {
    if (sequence.cancelled) return false;
    const index = sequence.next++;
    const last = sequence.next === sequence.tokens;
    sequence.sink.advance({ index, first: index === 0, last });
    return !last;
  }
}

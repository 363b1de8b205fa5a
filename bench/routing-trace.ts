import { type Random, randomInt } from "#kernel/random.ts";

/** Tokens of one prompt block; at four bytes a token it is the default of 256 bytes. */
export const blockTokens = 64;

export interface Turn {
  readonly userTokens: number;
  readonly outputTokens: number;
  /** From the answer before (or the conversation's start) to this turn. */
  readonly thinkMs: number;
}

/** A user of one of the applications, whose long instructions all of its conversations share. */
export interface Conversation {
  readonly id: number;
  readonly app: number;
  readonly instructionTokens: number;
  readonly startMs: number;
  readonly turns: readonly Turn[];
}

export interface TraceOptions {
  readonly random: Random;
  readonly calls: number;
  readonly callsPerSecond: number;
}

const apps = 60;

/** Conversations of 1 to 16 turns, six on average, begun at random; a few applications have most of them (Zipf). */
export function createTrace({ random, calls, callsPerSecond }: TraceOptions): readonly Conversation[] {
  const instructions = Array.from({ length: apps }, () => 400 + randomInt(random, 2_400));
  const weights = instructions.map((_, app) => 1 / (app + 1));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  const durationMs = (calls / callsPerSecond) * 1_000;
  const conversations: Conversation[] = [];
  for (let made = 0, id = 0; made < calls; id++) {
    let left = random.next() * total;
    const app = weights.findIndex((weight) => (left -= weight) < 0);
    // The first ones are met in the middle of their conversations, as a mesh that has been up for long would.
    const turns = Array.from({ length: 1 + Math.min(15, Math.floor(exponential(random, 5.5))) }, () => ({
      userTokens: 16 + Math.floor(exponential(random, 120)),
      outputTokens: 8 + Math.floor(exponential(random, 80)),
      thinkMs: exponential(random, 2_000),
    }));
    conversations.push({
      id,
      app: Math.max(0, app),
      instructionTokens: instructions[Math.max(0, app)] ?? 0,
      startMs: random.next() * durationMs,
      turns,
    });
    made += turns.length;
  }
  return conversations;
}

/** The chained hashes of a conversation's blocks, as far as it has been told. */
export class Transcript {
  readonly #conversation: Conversation;
  readonly #hashes: number[] = [];
  tokens = 0;

  constructor(conversation: Conversation) {
    this.#conversation = conversation;
  }

  /** The whole blocks of what has been told and `tokens` more. */
  extend(tokens: number): Uint32Array {
    const { id, app, instructionTokens } = this.#conversation;
    this.tokens += tokens;
    const shared = Math.floor(instructionTokens / blockTokens);
    while (this.#hashes.length < Math.floor(this.tokens / blockTokens)) {
      const at = this.#hashes.length;
      const content = at < shared ? 0x10000000 + app : id;
      this.#hashes.push(chained(this.#hashes[at - 1] ?? 0, content, at));
    }
    return Uint32Array.from(this.#hashes);
  }
}

function chained(before: number, content: number, at: number): number {
  let h = (before ^ Math.imul(content + 1, 0x9e3779b9) ^ Math.imul(at + 1, 0x85ebca6b)) | 0;
  h = Math.imul(h ^ (h >>> 16), 0x7feb352d);
  h = Math.imul(h ^ (h >>> 15), 0x846ca68b);
  return (h ^ (h >>> 16)) >>> 0;
}

function exponential(random: Random, mean: number): number {
  return -mean * Math.log(1 - random.next());
}

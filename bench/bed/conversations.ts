import type { Random } from "#kernel/random.ts";
import { answerText } from "./answer.ts";

export interface TraceShape {
  /** Different system prompts; each conversation has one of them. */
  readonly groups: number;
  readonly systemBytes: number;
  readonly turns: number;
  /** Of each question. */
  readonly questionBytes: number;
  /** Makes the texts of one run unlike those of another, which a gateway may remember. */
  readonly run: string;
  readonly seed: number;
}

export interface Message {
  readonly role: "system" | "user" | "assistant";
  readonly content: string;
}

interface Conversation {
  readonly messages: readonly Message[];
  readonly turn: number;
}

/** A trace of conversations that share their beginnings: each asks, gets its answer, and asks on with all that was said. */
export class Conversations {
  readonly #shape: TraceShape;
  readonly #random: Random;
  readonly #idle: Conversation[] = [];
  #count = 0;

  constructor(shape: TraceShape, random: Random) {
    this.#shape = shape;
    this.#random = random;
  }

  take(): Conversation {
    return this.#idle.shift() ?? this.#begin();
  }

  answered({ messages, turn }: Conversation, tokens: number): void {
    if (turn + 1 >= this.#shape.turns) return void this.#idle.push(this.#begin());
    const answer: Message = { role: "assistant", content: answerText(tokens) };
    this.#idle.push({ messages: [...messages, answer, this.#question()], turn: turn + 1 });
  }

  #begin(): Conversation {
    const { groups, systemBytes, run } = this.#shape;
    const group = Math.floor(this.#random.next() * groups);
    const content = filled(`${run}, group ${group}. `, systemBytes);
    return { messages: [{ role: "system", content }, this.#question()], turn: 0 };
  }

  #question(): Message {
    return { role: "user", content: filled(`Question ${this.#count++}. `, this.#shape.questionBytes) };
  }
}

function filled(words: string, bytes: number): string {
  return words.repeat(Math.ceil(bytes / words.length)).slice(0, bytes);
}

import type { AnswerEvent } from "./event.ts";
import type { PlainDelta } from "./plain-delta.ts";

/** Translates events into one protocol's words: as server-sent events on the way, or as one JSON text at the end. */
export interface GenerationAnswer {
  /** What to send now; "" is nothing yet. `call` says which of the requests the event belongs to. */
  take(event: AnswerEvent, call: number): string;
  /** As `take`, for a delta of nothing but text. Undefined: this one has to go to `take`. */
  takePlain(delta: PlainDelta, call: number): string | undefined;
  /** Forgets what it took of a call, of which nothing was sent. */
  restart(call: number): void;
  /** What to send last. */
  end(): string;
}

/** What the answers of all endpoints have to know. */
export interface AnswerOptions {
  /** As asked for, until Started tells the resolved name. */
  readonly model: string;
  readonly calls: number;
  /** Of each call; choice c of call k has the index k × choiceCount + c. */
  readonly choiceCount: number;
}

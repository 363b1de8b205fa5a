import { type Delta, FinishReason } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import type { AnswerOptions, GenerationAnswer } from "./answer.ts";
import type { AnswerEvent } from "./event.ts";
import type { EventIds } from "./event-id.ts";
import type { PlainDelta } from "./plain-delta.ts";
import { UsageSum } from "./usage.ts";

/** What is particular to the chunks of one endpoint. */
export interface ChunkFormat {
  /** All fields of a chunk but its choices and usage. */
  head(model: string, unrepeatable: boolean): object;
  /** The chunks of a delta: the one choice of each. */
  choices(delta: Delta, index: number): readonly object[];
  /** The choice of a chunk that brings text to a choice which has had chunks before. */
  textChoice(index: number, text: string): object;
}

export interface StreamedAnswerOptions extends AnswerOptions {
  readonly includeUsage: boolean;
  readonly ids: EventIds;
}

/** Stands for the text in a chunk that is formatted once. */
const mark = "\u0000";

/** Server-sent events with one JSON chunk each, and `[DONE]` as the last. */
export class StreamedAnswer implements GenerationAnswer {
  readonly #format: ChunkFormat;
  readonly #options: StreamedAnswerOptions;
  readonly #usage = new UsageSum();
  readonly #tail: string;
  /** Of the line behind an event's data, up to its count. */
  readonly #idLine: string | undefined;
  #count = 0;
  #model: string | undefined;
  /** All of a chunk before its choices, formatted once. */
  #head = "";
  /** Chunks of text by choice, cut where the text goes; for choices that have begun. */
  #textChunks: { readonly before: string; readonly after: string }[] = [];

  constructor(format: ChunkFormat, options: StreamedAnswerOptions) {
    this.#format = format;
    this.#options = options;
    this.#tail = options.includeUsage ? ',"usage":null}\n' : "}\n";
    const { idPrefix } = options.ids;
    this.#idLine = idPrefix === undefined ? undefined : `id: ${idPrefix}`;
    this.#setModel(options.model);
  }

  take(event: AnswerEvent, call: number): string {
    switch (event.case) {
      case "started":
        this.#setModel(event.value.model);
        return "";
      case "delta":
        return this.#delta(event.value, call * this.#options.choiceCount + event.value.choiceIndex);
      case "finished":
        this.#usage.add(event.value.usage);
        return event.value.unrepeatable ? this.#unrepeatable() : "";
      case "waiting":
      case undefined:
        return "";
    }
  }

  takePlain(delta: PlainDelta, call: number): string | undefined {
    const chunk = this.#textChunks[call * this.#options.choiceCount + delta.choiceIndex];
    if (chunk === undefined || delta.finishReason !== FinishReason.UNSPECIFIED) return undefined;
    return delta.text === "" ? "" : this.#event(chunk.before + delta.json + chunk.after);
  }

  /** What it took without sending anything was Started and deltas without a chunk, of which nothing is kept. */
  restart(): void {}

  end(): string {
    const { includeUsage } = this.#options;
    const usage = includeUsage ? this.#event(`${this.#head}[],"usage":${this.#usage.json()}}\n`) : "";
    return `${usage}data: [DONE]\n\n`;
  }

  /**
   * Takes the lines of an event but its id, which comes behind them: whoever has it has all of the event. "" for one
   * that the client has.
   */
  #event(data: string): string {
    this.#count += 1;
    if (this.#count <= this.#options.ids.had) return "";
    return this.#idLine === undefined ? `${data}\n` : `${data}${this.#idLine}${this.#count}\n\n`;
  }

  #setModel(model: string): void {
    if (model !== this.#model) this.#setHead(model, false);
  }

  #setHead(model: string, unrepeatable: boolean): void {
    this.#model = model;
    this.#head = `data: ${JSON.stringify(this.#format.head(model, unrepeatable)).slice(0, -1)},"choices":`;
    this.#textChunks = [];
  }

  /** A chunk without choices says it by its fingerprint; what came before has left with the usual one. */
  #unrepeatable(): string {
    this.#setHead(this.#model ?? this.#options.model, true);
    return this.#event(`${this.#head}[]${this.#tail}`);
  }

  #delta(delta: Delta, index: number): string {
    let out = "";
    const choices = this.#format.choices(delta, index);
    for (const choice of choices) out += this.#event(this.#chunk(choice));
    if (choices.length > 0 && this.#textChunks[index] === undefined) {
      const [before = "", after = ""] = this.#chunk(this.#format.textChoice(index, mark)).split(JSON.stringify(mark));
      this.#textChunks[index] = { before, after };
    }
    return out;
  }

  #chunk(choice: object): string {
    return `${this.#head}[${JSON.stringify(choice)}]${this.#tail}`;
  }
}

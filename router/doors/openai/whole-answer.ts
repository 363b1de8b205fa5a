import {
  type Delta,
  FinishReason,
  type TokenLogprob,
  type ToolCallDelta,
} from "#gen/helixmesh/inference/v1/inference_pb.ts";
import type { AnswerOptions, GenerationAnswer } from "./answer.ts";
import type { AnswerEvent } from "./event.ts";
import type { PlainDelta } from "./plain-delta.ts";
import { UsageSum } from "./usage.ts";

/** All that came of one choice. */
export interface WholeChoice {
  text: string;
  readonly logprobs: TokenLogprob[];
  readonly toolCalls: ToolCallDelta[];
  finishReason: FinishReason;
}

/** What is particular to the answers of one endpoint. */
export interface WholeFormat {
  /** All fields but the choices and usage. */
  head(model: string, unrepeatable: boolean): object;
  /** As JSON. */
  choice(choice: WholeChoice, index: number): string;
}

/** Gathers all choices and answers once. */
export class WholeAnswer implements GenerationAnswer {
  readonly #format: WholeFormat;
  readonly #options: AnswerOptions;
  readonly #usage = new UsageSum();
  readonly #choices: WholeChoice[];
  #model: string;
  /** Calling again with the same seed may give another answer. */
  #unrepeatable = false;

  constructor(format: WholeFormat, options: AnswerOptions) {
    this.#format = format;
    this.#options = options;
    this.#model = options.model;
    this.#choices = [];
    for (let left = options.calls * options.choiceCount; left > 0; left--) this.#choices.push(emptyChoice());
  }

  take(event: AnswerEvent, call: number): string {
    if (event.case === "started") this.#model = event.value.model;
    else if (event.case === "delta") this.#delta(event.value, call);
    else if (event.case === "finished") {
      this.#usage.add(event.value.usage);
      this.#unrepeatable ||= event.value.unrepeatable;
    }
    return "";
  }

  takePlain(delta: PlainDelta, call: number): string {
    const choice = this.#choices[call * this.#options.choiceCount + delta.choiceIndex];
    if (!choice) return "";
    choice.text += delta.text;
    if (delta.finishReason !== FinishReason.UNSPECIFIED) choice.finishReason = delta.finishReason;
    return "";
  }

  restart(call: number): void {
    const { choiceCount } = this.#options;
    for (let at = call * choiceCount; at < (call + 1) * choiceCount; at++) this.#choices[at] = emptyChoice();
  }

  end(): string {
    const head = JSON.stringify(this.#format.head(this.#model, this.#unrepeatable)).slice(0, -1);
    const choices = this.#choices.map((choice, index) => this.#format.choice(choice, index)).join(",");
    return `${head},"choices":[${choices}],"usage":${this.#usage.json()}}`;
  }

  #delta(delta: Delta, call: number): void {
    const choice = this.#choices[call * this.#options.choiceCount + delta.choiceIndex];
    if (!choice) return;
    choice.text += delta.text;
    choice.logprobs.push(...delta.logprobs);
    choice.toolCalls.push(...delta.toolCalls);
    if (delta.finishReason !== FinishReason.UNSPECIFIED) choice.finishReason = delta.finishReason;
  }
}

function emptyChoice(): WholeChoice {
  return { text: "", logprobs: [], toolCalls: [], finishReason: FinishReason.UNSPECIFIED };
}

import { fromBinary } from "@bufbuild/protobuf";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import {
  type Delta,
  FinishReason,
  type Finished,
  type GenerateRequest,
  type GenerateResponse,
  GenerateResponseSchema,
  type Started,
  type ToolCallDelta,
} from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { cannotContinue } from "../engines/continuation.ts";
import type { ParsedOutput } from "../output/tool-calls.ts";

/** What the client of a moved call has already. */
export interface RelayedOutput {
  readonly started: Started | undefined;
  readonly choices: readonly RelayedChoice[];
  readonly finished: Finished | undefined;
}

/** Reads StartCall.relayed; throws a MeshError when it is no beginning of this request's answer. */
export function readRelayed(relayed: readonly Uint8Array[], request: GenerateRequest): RelayedOutput {
  const choices = Array.from({ length: Math.max(1, request.choiceCount) }, () => new RelayedChoice());
  let started: Started | undefined;
  let finished: Finished | undefined;
  for (const bytes of relayed) {
    const { event } = decoded(bytes);
    switch (event.case) {
      case "started":
        started = event.value;
        break;
      case "delta": {
        const choice = choices[event.value.choiceIndex];
        if (!choice) throw cannotContinue(`it has no choice ${event.value.choiceIndex}`);
        choice.add(event.value);
        break;
      }
      case "finished":
        finished = event.value;
        break;
      // The router's own word to its client.
      case "waiting":
      case undefined:
        throw cannotContinue("one of its responses is of a kind that this node does not know");
    }
  }
  if (started === undefined && relayed.length > 0) throw cannotContinue("its first response is not Started");
  const short = request.logprobs && choices.some(({ tokenIds, logprobs }) => tokenIds.length !== logprobs);
  if (short) throw cannotContinue("not all of its tokens have log probabilities");
  return { started, choices, finished };
}

function decoded(bytes: Uint8Array): GenerateResponse {
  try {
    return fromBinary(GenerateResponseSchema, bytes);
  } catch (cause) {
    throw new MeshError(Reason.INVALID_REQUEST, "calls.starts.relayed holds no valid GenerateResponse.", {
      field: "calls.starts.relayed",
      cause,
    });
  }
}

/**
 * What the client has of one choice. A continued choice is said from its beginning; `rest` lets through what the client
 * does not have. Text may lag behind its tokens (a stop string or a character was incomplete), and several tokens may
 * share a delta, so texts are compared and not pieces; a text that differs was made by another model or engine, and
 * ends the call rather than being joined to this one.
 */
export class RelayedChoice {
  readonly tokenIds: number[] = [];
  logprobs = 0;
  /** Unspecified while the choice goes on. */
  finishReason: FinishReason = FinishReason.UNSPECIFIED;
  #text = "";
  #toolCalls: { name: string; argumentsJson: string }[] = [];
  /** Tool calls that came again. */
  #repeated = 0;

  add({ text, tokenIds, logprobs, toolCalls, finishReason }: Delta): void {
    this.#text += text;
    this.tokenIds.push(...tokenIds);
    this.logprobs += logprobs.length;
    this.finishReason = finishReason;
    for (const { index, name, argumentsJson } of toolCalls) {
      const call = (this.#toolCalls[index] ??= { name: "", argumentsJson: "" });
      call.name += name;
      call.argumentsJson += argumentsJson;
    }
  }

  /** What of `output` the client does not have; the same object when it has nothing more. Throws when they differ. */
  rest(output: ParsedOutput): ParsedOutput {
    if (this.#text === "" && this.#repeated === this.#toolCalls.length) return output;
    const again = Math.min(this.#text.length, output.text.length);
    if (output.text.slice(0, again) !== this.#text.slice(0, again)) throw differs();
    this.#text = this.#text.slice(again);
    return { text: output.text.slice(again), toolCalls: output.toolCalls.filter((call) => this.#isNew(call)) };
  }

  /** Throws when the choice ended before all came again that the client has. */
  checkComplete(): void {
    if (this.#text !== "" || this.#repeated < this.#toolCalls.length) throw differs();
  }

  #isNew({ name, argumentsJson }: ToolCallDelta): boolean {
    const had = this.#toolCalls[this.#repeated];
    if (had === undefined) return true;
    if (had.name !== name || had.argumentsJson !== argumentsJson) throw differs();
    this.#repeated++;
    return false;
  }
}

function differs(): MeshError {
  return cannotContinue("its text begins otherwise here");
}

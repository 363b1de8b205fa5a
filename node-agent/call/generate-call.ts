import { create } from "@bufbuild/protobuf";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import {
  CountTokensRequestSchema,
  FinishReason,
  type GenerateRequest,
  ToolChoice_Mode,
} from "#gen/helixmesh/inference/v1/inference_pb.ts";
import type { StartCall } from "#gen/helixmesh/link/v1/link_pb.ts";
import { type Usage, UsageSchema } from "#gen/helixmesh/type/v1/type_pb.ts";
import { invariant } from "#kernel/invariant.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import type { StepEvent } from "../engines/engine.ts";
import type { CallSink, RunningCall } from "../link/index.ts";
import { type ParsedOutput, ToolCallParser } from "../output/tool-calls.ts";
import type { CallEnvironment, CallTarget, RunningSequence } from "./call-environment.ts";
import { type CallOutcome, CallRecord, type Operation } from "./call-record.ts";
import { encodeDelta, encodeFinished, encodeStarted } from "./generate-response.ts";
import { type RelayedChoice, type RelayedOutput, readRelayed } from "./relayed-output.ts";

type Generated = Pick<Extract<StepEvent, { kind: "tokens" }>, "tokenIds" | "logprobs">;

const noTokens: Generated = { tokenIds: [], logprobs: [] };

interface Choice {
  readonly index: number;
  readonly parser: ToolCallParser | undefined;
  readonly relayed: RelayedChoice;
  sequence: RunningSequence | undefined;
  /** Generated so far, elsewhere too; the engine's own count once it ended. */
  tokens: number;
  begun: boolean;
  ended: boolean;
  /** Its text differs from what the client has: nothing more of it leaves. */
  muted: boolean;
  finishReason: FinishReason;
}

/**
 * One Generate call: a sequence for each choice, merged into one stream. Started is said once, by the choice that
 * starts first; the prompt counts once. The first failure is the call's: the other choices are cancelled, and the call
 * ends when the last sequence has, so that its usage is exact.
 *
 * A call that another replica began goes on behind what the client has: choices that ended stay ended, the others are
 * given their tokens so far, and only what is new leaves.
 */
export class GenerateCall implements RunningCall {
  readonly #environment: CallEnvironment;
  readonly #start: StartCall;
  readonly #request: GenerateRequest;
  readonly #sink: CallSink;
  readonly #record: CallRecord;
  readonly #choices: Choice[];
  readonly #relayed: RelayedOutput;
  #promptTokens: number;
  #cachedTokens: number;
  /** The client knows that the call was taken. */
  #started: boolean;
  /** An engine here took it. */
  #taken = false;
  #sawToken = false;
  #failure: MeshError | undefined;

  constructor(environment: CallEnvironment, start: StartCall, request: GenerateRequest, sink: CallSink) {
    this.#environment = environment;
    this.#start = start;
    this.#request = request;
    this.#sink = sink;
    const relayed = readRelayed(start.relayed, request);
    this.#relayed = relayed;
    this.#started = relayed.started !== undefined;
    this.#promptTokens = relayed.started?.promptTokens ?? 0;
    this.#cachedTokens = relayed.started?.cachedTokens ?? 0;
    this.#record = new CallRecord(environment, start, sink, operationOf(request), (error) => this.cancel(error));
    const tools = callableTools(request);
    this.#choices = relayed.choices.map((choice, index) => ({
      index,
      parser: tools && new ToolCallParser({ tools, newId: environment.newToolCallId }),
      relayed: choice,
      sequence: undefined,
      tokens: choice.tokenIds.length,
      begun: false,
      muted: false,
      ended: choice.finishReason !== FinishReason.UNSPECIFIED,
      finishReason: choice.finishReason,
    }));
  }

  /** Once, right after construction. */
  begin(): void {
    try {
      checkRequest(this.#request);
      const open = this.#choices.filter((choice) => !choice.ended);
      if (open.length === 0) return this.#endIfAllEnded();
      const target = this.#environment.target(this.#start.replicaId);
      if (this.#request.echo && this.#request.maxOutputTokens === 0) return void this.#echoAlone(target);
      // The head of each choice is repeated here, so engines need not know of it.
      const request = this.#request.echo ? { ...this.#request, echo: false } : this.#request;
      for (const choice of open) {
        const sequence = { request, choiceIndex: choice.index, generated: choice.relayed.tokenIds };
        choice.sequence = target.generate(sequence, (event) => this.#onEvent(choice, event));
        choice.begun = true;
      }
    } catch (error) {
      this.#fail(MeshError.from(error));
    }
  }

  cancel(error: MeshError): void {
    this.#fail(error);
  }

  get tokensElsewhere(): number {
    return this.#relayed.choices.reduce((sum, { tokenIds }) => sum + tokenIds.length, 0);
  }

  orphan(): void {
    this.#record.orphan(this.#outcome(this.#usage()));
  }

  adopt(): void {
    this.#record.adopt();
  }

  /** The prompt comes back and nothing is generated: all that is asked of the engine is how long the prompt is. */
  async #echoAlone(target: CallTarget): Promise<void> {
    const { model, input } = this.#request;
    try {
      invariant(input.case === "prompt", "echo was checked to have a text prompt");
      const { promptTokens } = await target.countTokens(create(CountTokensRequestSchema, { model, input }));
      if (this.#record.ended) return;
      for (const choice of this.#choices) {
        choice.begun = true;
        choice.ended = true;
        choice.finishReason = FinishReason.LENGTH;
        this.#onStarted(choice, promptTokens, 0);
      }
      this.#endIfAllEnded();
    } catch (error) {
      this.#fail(MeshError.from(error));
    }
  }

  #fail(error: MeshError): void {
    this.#failure ??= error;
    for (const choice of this.#choices) if (choice.begun && !choice.ended) choice.sequence?.cancel();
    this.#endIfAllEnded();
  }

  #onEvent(choice: Choice, event: StepEvent): void {
    if (choice.ended) return;
    try {
      this.#take(choice, event);
    } catch (error) {
      // What came does not fit what the client has. The sequence's own end still comes, unless this was it.
      choice.muted = true;
      this.#fail(MeshError.from(error));
    }
  }

  #take(choice: Choice, event: StepEvent): void {
    switch (event.kind) {
      case "started":
        return this.#onStarted(choice, event.promptTokens, event.cachedTokens);
      case "tokens": {
        if (!this.#sawToken && event.tokenIds.length > 0) {
          this.#sawToken = true;
          this.#record.firstToken();
        }
        choice.tokens += event.tokenIds.length;
        const parsed = choice.parser?.push(event.text) ?? { text: event.text, toolCalls: [] };
        return this.#push(choice, parsed, event);
      }
      case "finished": {
        choice.ended = true;
        choice.tokens = Math.max(choice.tokens, event.completionTokens);
        const called = (choice.parser?.callCount ?? 0) > 0 && event.reason === FinishReason.STOP;
        choice.finishReason = called ? FinishReason.TOOL_CALLS : event.reason;
        this.#push(choice, { text: choice.parser?.end() ?? "", toolCalls: [] });
        return this.#endIfAllEnded();
      }
      case "failed":
        choice.ended = true;
        choice.tokens = Math.max(choice.tokens, event.completionTokens);
        return this.#fail(event.error);
    }
  }

  #onStarted(choice: Choice, promptTokens: number, cachedTokens: number): void {
    this.#taken = true;
    if (!this.#started) {
      this.#started = true;
      this.#promptTokens = promptTokens;
      this.#cachedTokens = cachedTokens;
      const { callId, model } = this.#start;
      const nodeId = this.#environment.nodeId();
      this.#sink.push([encodeStarted({ callId, model, promptTokens, cachedTokens, nodeId })], 0);
    }
    const { echo, input } = this.#request;
    if (echo && input.case === "prompt") {
      this.#push(choice, { text: input.value, toolCalls: [] });
    }
  }

  /** Sends what the client does not have of it; nothing when that is nothing. */
  #push(choice: Choice, output: ParsedOutput, { tokenIds, logprobs }: Generated = noTokens): void {
    if (choice.muted) return;
    const { index: choiceIndex, finishReason } = choice;
    const { text, toolCalls } = choice.relayed.rest(output);
    if (finishReason !== FinishReason.UNSPECIFIED) choice.relayed.checkComplete();
    if (text === "" && toolCalls.length === 0 && tokenIds.length === 0 && finishReason === FinishReason.UNSPECIFIED) {
      return;
    }
    const delta = { choiceIndex, text, tokenIds, logprobs, toolCalls, finishReason };
    this.#sink.push([encodeDelta(delta)], tokenIds.length);
  }

  #endIfAllEnded(): void {
    if (this.#record.ended) return;
    for (const choice of this.#choices) if (choice.begun && !choice.ended) return;
    const usage = this.#relayed.finished?.usage ?? this.#usage();
    if (this.#failure === undefined && this.#relayed.finished === undefined) {
      const reasons = this.#choices.map((choice) => choice.finishReason);
      this.#sink.push([encodeFinished(reasons, usage)], 0);
    }
    this.#record.end(this.#failure, this.#outcome(usage));
  }

  #outcome(usage: Usage): CallOutcome {
    return {
      usage,
      tokensElsewhere: this.tokensElsewhere,
      taken: this.#taken,
      labels: this.#request.labels,
      finishReasons: this.#choices.map((choice) => choice.finishReason),
    };
  }

  #usage(): Usage {
    let completionTokens = 0;
    for (const choice of this.#choices) completionTokens += choice.tokens;
    return create(UsageSchema, {
      promptTokens: this.#promptTokens,
      cachedTokens: Math.min(this.#cachedTokens, this.#promptTokens),
      completionTokens,
    });
  }
}

function operationOf({ input }: GenerateRequest): Operation {
  return input.case === "chat" ? "chat" : "text_completion";
}

/** Names of the tools that the model may call; undefined when its text is only text. */
function callableTools(request: GenerateRequest): ReadonlySet<string> | undefined {
  if (request.input.case !== "chat") return undefined;
  const { tools, toolChoice } = request.input.value;
  if (tools.length === 0 || toolChoice?.mode === ToolChoice_Mode.NONE) return undefined;
  return new Set(tools.map((tool) => tool.name));
}

/** What does not depend on the engine. */
function checkRequest(request: GenerateRequest): void {
  if (request.choiceCount > 16) {
    throw new MeshError(Reason.INVALID_REQUEST, `choice_count is ${request.choiceCount}; at most 16 are possible.`, {
      field: "choice_count",
      limit: "16 choices",
    });
  }
  if (request.stop.length > 16 || request.stop.some((stop) => stop === "" || stop.length > 256)) {
    throw new MeshError(Reason.INVALID_REQUEST, "stop takes at most 16 strings of 1 to 256 characters.", {
      field: "stop",
      limit: "16 strings of 256 characters",
    });
  }
  if (!request.echo) return;
  if (request.input.case !== "prompt") {
    throw new MeshError(Reason.UNSUPPORTED_PARAMETER, "echo is possible only with a text prompt.", { field: "echo" });
  }
  if (request.logprobs !== undefined) {
    throw new MeshError(Reason.UNSUPPORTED_PARAMETER, "echo cannot be combined with logprobs: the prompt has none.", {
      field: "echo",
    });
  }
}

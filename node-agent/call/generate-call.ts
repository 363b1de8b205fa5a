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
import { ToolCallParser } from "../output/tool-calls.ts";
import type { CallEnvironment, CallTarget, RunningSequence } from "./call-environment.ts";
import { CallRecord } from "./call-record.ts";
import { encodeDelta, encodeFinished, encodeStarted } from "./generate-response.ts";

interface Choice {
  readonly index: number;
  readonly parser: ToolCallParser | undefined;
  sequence: RunningSequence | undefined;
  /** Generated so far; the engine's own count once it ended. */
  tokens: number;
  begun: boolean;
  ended: boolean;
  finishReason: FinishReason;
}

/**
 * One Generate call: a sequence for each choice, merged into one stream. Started is said once, by the choice that
 * starts first; the prompt counts once. The first failure is the call's: the other choices are cancelled, and the call
 * ends when the last sequence has, so that its usage is exact.
 */
export class GenerateCall implements RunningCall {
  readonly #environment: CallEnvironment;
  readonly #start: StartCall;
  readonly #request: GenerateRequest;
  readonly #sink: CallSink;
  readonly #record: CallRecord;
  readonly #choices: Choice[];
  #promptTokens = 0;
  #cachedTokens = 0;
  #started = false;
  #sawToken = false;
  #failure: MeshError | undefined;

  constructor(environment: CallEnvironment, start: StartCall, request: GenerateRequest, sink: CallSink) {
    this.#environment = environment;
    this.#start = start;
    this.#request = request;
    this.#sink = sink;
    this.#record = new CallRecord(environment, start, sink, "generate", (error) => this.cancel(error));
    const tools = callableTools(request);
    this.#choices = Array.from({ length: Math.max(1, request.choiceCount) }, (_, index) => ({
      index,
      parser: tools && new ToolCallParser({ tools, newId: environment.newToolCallId }),
      sequence: undefined,
      tokens: 0,
      begun: false,
      ended: false,
      finishReason: FinishReason.UNSPECIFIED,
    }));
  }

  /** Once, right after construction. */
  begin(): void {
    try {
      checkRequest(this.#request);
      const target = this.#environment.target(this.#start.replicaId);
      if (this.#request.echo && this.#request.maxOutputTokens === 0) return void this.#echoAlone(target);
      // The head of each choice is repeated here, so engines need not know of it.
      const request = this.#request.echo ? { ...this.#request, echo: false } : this.#request;
      for (const choice of this.#choices) {
        choice.sequence = target.generate(request, choice.index, (event) => this.#onEvent(choice, event));
        choice.begun = true;
      }
    } catch (error) {
      this.#fail(MeshError.from(error));
    }
  }

  cancel(error: MeshError): void {
    this.#fail(error);
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
    switch (event.kind) {
      case "started":
        return this.#onStarted(choice, event.promptTokens, event.cachedTokens);
      case "tokens": {
        if (!this.#sawToken) {
          this.#sawToken = true;
          this.#record.firstToken();
        }
        choice.tokens += event.tokenIds.length;
        const parsed = choice.parser?.push(event.text) ?? { text: event.text, toolCalls: [] };
        this.#push(choice, { ...parsed, tokenIds: event.tokenIds, logprobs: event.logprobs });
        return;
      }
      case "finished": {
        choice.ended = true;
        choice.tokens = event.completionTokens;
        const called = (choice.parser?.callCount ?? 0) > 0 && event.reason === FinishReason.STOP;
        choice.finishReason = called ? FinishReason.TOOL_CALLS : event.reason;
        this.#push(choice, { text: choice.parser?.end() ?? "", toolCalls: [], tokenIds: [], logprobs: [] });
        return this.#endIfAllEnded();
      }
      case "failed":
        choice.ended = true;
        choice.tokens = event.completionTokens;
        return this.#fail(event.error);
    }
  }

  #onStarted(choice: Choice, promptTokens: number, cachedTokens: number): void {
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
      this.#push(choice, { text: input.value, toolCalls: [], tokenIds: [], logprobs: [] });
    }
  }

  #push(choice: Choice, delta: Omit<Parameters<typeof encodeDelta>[0], "choiceIndex" | "finishReason">): void {
    const { index: choiceIndex, finishReason } = choice;
    this.#sink.push([encodeDelta({ ...delta, choiceIndex, finishReason })], delta.tokenIds.length);
  }

  #endIfAllEnded(): void {
    if (this.#record.ended) return;
    for (const choice of this.#choices) if (choice.begun && !choice.ended) return;
    const usage = this.#usage();
    if (this.#failure === undefined) {
      const reasons = this.#choices.map((choice) => choice.finishReason);
      this.#sink.push([encodeFinished(reasons, usage)], 0);
    }
    this.#record.end(this.#failure, usage, this.#started, this.#request.labels);
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

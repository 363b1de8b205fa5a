import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { beforeEach, describe, expect, test } from "vitest";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import {
  type CountTokensResponse,
  CountTokensResponseSchema,
  FinishReason,
  GenerateRequestSchema,
  type GenerateResponse,
  GenerateResponseSchema,
  ToolChoice_Mode,
} from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { type CallEnd, Method, StartCallSchema } from "#gen/helixmesh/link/v1/link_pb.ts";
import { Outcome, type UsageRecord } from "#gen/helixmesh/type/v1/type_pb.ts";
import { ManualClock } from "#kernel/clock.ts";
import { silentLogger } from "#kernel/log.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { Metrics } from "#kernel/metrics.ts";
import type { StepEvent } from "../engines/engine.ts";
import { CallMetrics, createCallRunner } from "./index.ts";

type Init = Exclude<Parameters<typeof create<typeof GenerateRequestSchema>>[1], { $typeName: string } | undefined>;
/** An event without its id: the scripted target knows it. */
type Scripted = StepEvent extends infer E ? (E extends StepEvent ? Omit<E, "id"> : never) : never;

let clock: ManualClock;
let sequences: { choice: number; cancelled: boolean; say(event: Scripted): void }[];
let usage: UsageRecord[];
let responses: GenerateResponse[];
let ends: CallEnd[];
let refuseFrom: number;
let counted: PromiseWithResolvers<CountTokensResponse>;
let metrics: CallMetrics;
beforeEach(() => {
  clock = new ManualClock();
  sequences = [];
  usage = [];
  responses = [];
  ends = [];
  counted = Promise.withResolvers();
  refuseFrom = Number.POSITIVE_INFINITY;
  metrics = new CallMetrics(new Metrics("node-agent"));
});

function begin(request: Init, timeoutMs = 0n) {
  const runner = createCallRunner({
    target: () => ({
      generate({ choiceIndex: choice }, onEvent) {
        if (choice >= refuseFrom) throw new MeshError(Reason.OVERLOADED, "The queue is full.");
        const say = (event: Scripted): void => onEvent({ ...event, id: choice });
        const sequence = { choice, cancelled: false, say };
        sequences.push(sequence);
        return { cancel: () => void (sequence.cancelled = true) };
      },
      embed: () => Promise.reject(new Error("not asked for")),
      countTokens: () => counted.promise,
    }),
    nodeId: () => "n1",
    recordUsage: (record) => void usage.push(record),
    newToolCallId: () => "call_1",
    metrics,
    clock,
    logger: silentLogger,
  });
  const bytes = toBinary(GenerateRequestSchema, create(GenerateRequestSchema, request));
  const start = create(StartCallSchema, {
    number: 1,
    callId: "c1",
    model: "m",
    method: Method.GENERATE,
    request: bytes,
    timeoutMs,
  });
  return runner.start(start, {
    push: (all) => void responses.push(...all.map((one) => fromBinary(GenerateResponseSchema, one))),
    end: (end) => void ends.push(end),
  });
}

function say(choice: number, ...events: Scripted[]): void {
  for (const event of events) sequences[choice]?.say(event);
}
const started: Scripted = { kind: "started", promptTokens: 9, cachedTokens: 4 };
const tokens = (text: string, count = 1): Scripted => ({
  kind: "tokens",
  text,
  tokenIds: Array.from({ length: count }, () => 1),
  logprobs: [],
});
const finished = (completionTokens: number, reason: FinishReason = FinishReason.STOP): Scripted => ({
  kind: "finished",
  reason,
  completionTokens,
});
const failed = (reason: Reason, completionTokens: number): Scripted => ({
  kind: "failed",
  error: new MeshError(reason, "It failed."),
  completionTokens,
});
const prompt: Init = { input: { case: "prompt", value: "Hello" } };
const deltas = () => responses.flatMap(({ event }) => (event.case === "delta" ? [event.value] : []));
const cancelled = new MeshError(Reason.CANCELLED, "The caller cancelled the call.");

describe("a Generate call", () => {
  test("ends once every choice has, and counts the prompt once", () => {
    begin({ ...prompt, choiceCount: 2 });
    say(0, started, tokens("a"), finished(1));
    expect(ends).toEqual([]);
    say(1, started, tokens("b", 2), finished(2, FinishReason.LENGTH));
    expect(ends).toMatchObject([{ reason: 0, usage: { promptTokens: 9, cachedTokens: 4, completionTokens: 3 } }]);
    expect(responses.at(-1)?.event).toMatchObject({
      value: { finishReasons: [FinishReason.STOP, FinishReason.LENGTH] },
    });
    expect(usage).toMatchObject([{ callId: "c1", outcome: Outcome.COMPLETED, usage: { completionTokens: 3 } }]);
    expect(metrics.runningCount).toBe(0);
  });

  test("cancels the other choices when one fails, and waits for their counts", () => {
    begin({ ...prompt, choiceCount: 2 });
    say(0, started, tokens("a"));
    say(1, started, failed(Reason.ENGINE_FAILED, 0));
    expect(sequences[0]?.cancelled).toBe(true);
    expect(ends).toEqual([]);
    say(0, failed(Reason.CANCELLED, 5));
    expect(ends).toMatchObject([{ reason: Reason.ENGINE_FAILED, usage: { completionTokens: 5 } }]);
    expect(usage).toMatchObject([{ outcome: Outcome.FAILED, reason: Reason.ENGINE_FAILED }]);
  });

  test("that wants only its prompt back gets it, and the engine generates nothing", async () => {
    begin({ ...prompt, echo: true, maxOutputTokens: 0, choiceCount: 2 });
    counted.resolve(create(CountTokensResponseSchema, { promptTokens: 3 }));
    await expect.poll(() => ends).toMatchObject([{ reason: 0, usage: { promptTokens: 3, completionTokens: 0 } }]);
    expect(sequences).toEqual([]);
    expect(responses.map(({ event }) => event.case)).toEqual(["started", "delta", "delta", "finished"]);
    expect(deltas()).toMatchObject([
      { choiceIndex: 0, text: "Hello", finishReason: FinishReason.LENGTH },
      { choiceIndex: 1, text: "Hello", finishReason: FinishReason.LENGTH },
    ]);
    expect(usage).toMatchObject([{ outcome: Outcome.COMPLETED, usage: { promptTokens: 3 } }]);
  });

  test("that wants only its prompt back fails as the count of its tokens does, and ends at once when cancelled", async () => {
    begin({ ...prompt, echo: true, maxOutputTokens: 0 });
    counted.reject(new MeshError(Reason.ENGINE_FAILED, "It failed."));
    await expect.poll(() => ends).toMatchObject([{ reason: Reason.ENGINE_FAILED }]);
    counted = Promise.withResolvers();
    begin({ ...prompt, echo: true, maxOutputTokens: 0 }).cancel(cancelled);
    expect(ends).toMatchObject([{ reason: Reason.ENGINE_FAILED }, { reason: Reason.CANCELLED }]);
  });

  test("is refused as a whole when one choice is, and leaves no usage", () => {
    refuseFrom = 1;
    begin({ ...prompt, choiceCount: 2 });
    say(0, failed(Reason.CANCELLED, 0));
    expect(ends).toMatchObject([{ reason: Reason.OVERLOADED }]);
    expect(usage).toEqual([]);
  });

  test("ends as what stopped it, with the exact count, when it is cancelled", () => {
    const call = begin(prompt);
    say(0, started, tokens("a"));
    call.cancel(cancelled);
    call.cancel(new MeshError(Reason.DRAINING, "Later."));
    say(0, failed(Reason.CANCELLED, 2));
    expect(ends).toMatchObject([{ reason: Reason.CANCELLED, usage: { completionTokens: 2 } }]);
    expect(usage).toMatchObject([{ outcome: Outcome.CANCELLED, reason: 0 }]);
  });

  test("ends as completed when it finished before its cancellation reached the engine", () => {
    const call = begin({ ...prompt, choiceCount: 1 });
    say(0, started, finished(0));
    call.cancel(cancelled);
    expect(ends).toMatchObject([{ reason: 0 }]);
    expect(ends).toHaveLength(1);
  });

  test("is cut at its deadline, and keeps no timer when it ended before", () => {
    begin(prompt, 500n);
    say(0, started);
    clock.advance(500);
    expect(sequences[0]?.cancelled).toBe(true);
    say(0, failed(Reason.CANCELLED, 0));
    expect(ends).toMatchObject([{ reason: Reason.DEADLINE_EXCEEDED }]);
    expect(clock.pendingTimers).toBe(0);
  });

  test("whose router is gone writes down what it used so far, and the whole once another router took it up", () => {
    const call = begin(prompt);
    say(0, started, tokens("a"));
    call.orphan?.();
    expect(usage).toMatchObject([{ outcome: Outcome.CANCELLED, usage: { completionTokens: 1 } }]);
    clock.advance(50);
    say(0, tokens("b"));
    call.adopt?.();
    clock.advance(10);
    say(0, finished(2));
    const [first, second, ...more] = usage;
    expect(second).toMatchObject({ outcome: Outcome.COMPLETED, usage: { completionTokens: 2 }, durationMs: 10n });
    expect(second?.startedAtMs).toBe((first?.startedAtMs ?? 0n) + 50n);
    expect(more).toEqual([]);
  });

  test("that ended without a router is written down when one takes it up, and not when none does", () => {
    const [taken, forgotten] = [begin(prompt), begin(prompt)];
    for (const call of [taken, forgotten]) call.orphan?.();
    expect(usage).toEqual([]);
    for (const sequence of sequences) {
      sequence.say(started);
      sequence.say(finished(3));
    }
    expect(usage).toEqual([]);
    taken.adopt?.();
    taken.adopt?.();
    expect(usage).toMatchObject([{ outcome: Outcome.COMPLETED, usage: { completionTokens: 3 } }]);
  });

  test("measures the time to the first token", () => {
    begin(prompt);
    clock.advance(30);
    say(0, started, tokens("a"));
    clock.advance(20);
    say(0, finished(1));
    expect(usage).toMatchObject([{ ttftMs: 30n, durationMs: 50n }]);
  });
});

describe("tool calls of a Generate call", () => {
  const toolCall = '<tool_call>{"name": "get_weather", "arguments": {"city": "Oslo"}}</tool_call>';
  const chat = (mode?: ToolChoice_Mode): Init => ({
    input: {
      case: "chat",
      value: {
        messages: [{ content: "x" }],
        tools: [{ name: "get_weather" }],
        ...(mode !== undefined && { toolChoice: { mode } }),
      },
    },
  });

  test("leave as tool call parts, with TOOL_CALLS as the finish reason", () => {
    begin(chat());
    say(0, started, tokens(toolCall.slice(0, 20)), tokens(toolCall.slice(20)), finished(2));
    const parts = deltas().flatMap((delta) => delta.toolCalls);
    expect(parts).toMatchObject([{ index: 0, id: "call_1", name: "get_weather", argumentsJson: '{"city": "Oslo"}' }]);
    expect(
      deltas()
        .map((delta) => delta.text)
        .join(""),
    ).toBe("");
    expect(deltas().at(-1)?.finishReason).toBe(FinishReason.TOOL_CALLS);
  });

  test("stay text when none may be made, and in a prompt without tools", () => {
    begin(chat(ToolChoice_Mode.NONE));
    say(0, started, tokens(toolCall), finished(1));
    expect(
      deltas()
        .map((delta) => delta.text)
        .join(""),
    ).toBe(toolCall);
    expect(deltas().at(-1)?.finishReason).toBe(FinishReason.STOP);
  });

  test("that the length cut off are text, and the reason stays LENGTH", () => {
    begin(chat());
    say(0, started, tokens("<tool_call>{"), finished(1, FinishReason.LENGTH));
    expect(deltas().at(-1)).toMatchObject({ text: "<tool_call>{", finishReason: FinishReason.LENGTH });
  });
});

import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import {
  FinishReason,
  GenerateRequestSchema,
  type GenerateResponse,
  GenerateResponseSchema,
  Role,
} from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { type CallEnd, Method, StartCallSchema } from "#gen/helixmesh/link/v1/link_pb.ts";
import { DesiredReplicaSchema } from "#gen/helixmesh/node/v1/node_pb.ts";
import type { UsageRecord } from "#gen/helixmesh/type/v1/type_pb.ts";
import { systemClock } from "#kernel/clock.ts";
import { silentLogger } from "#kernel/log.ts";
import { Metrics } from "#kernel/metrics.ts";
import { seededRandom } from "#kernel/random.ts";
import type { CreateEngine, Engine, StepEvent } from "../engines/engine.ts";
import { createLlamaCppEngine } from "../engines/llama-cpp/index.ts";
import { createSimEngine } from "../engines/sim/index.ts";
import { CallMetrics, type CallTarget, createCallRunner } from "./index.ts";

type Init = Exclude<Parameters<typeof create<typeof GenerateRequestSchema>>[1], { $typeName: string } | undefined>;

interface Answer {
  readonly responses: readonly Uint8Array[];
  /** Completion tokens that the call's deltas said. */
  readonly counted: number;
  readonly end: CallEnd;
  readonly usage: readonly UsageRecord[];
}

/** An engine as a call's target, as the replica makes it one. */
class Target implements CallTarget {
  readonly engine: Engine;
  readonly #listeners = new Map<number, (event: StepEvent) => void>();
  #nextId = 1;

  constructor(createEngine: CreateEngine, modelPath: string, engineOptions: Record<string, string>) {
    this.engine = createEngine({
      replica: create(DesiredReplicaSchema, { replicaId: "r", parallelSequences: 16, engineOptions }),
      modelPath,
      onStep: (events) => {
        for (const event of events) this.#listeners.get(event.id)?.(event);
      },
      onFailed: () => {},
    });
  }

  generate(sequence: Parameters<CallTarget["generate"]>[0], onEvent: (event: StepEvent) => void) {
    const id = this.#nextId++;
    this.#listeners.set(id, onEvent);
    this.engine.generate({ ...sequence, id });
    return { cancel: () => this.engine.cancel(id) };
  }
  embed = () => Promise.reject(new Error("not asked for"));
  countTokens = () => Promise.reject(new Error("not asked for"));
}

function run(target: CallTarget, request: Init, relayed: readonly Uint8Array[] = []): Promise<Answer> {
  const ended = Promise.withResolvers<Answer>();
  const usage: UsageRecord[] = [];
  const responses: Uint8Array[] = [];
  let counted = 0;
  let ids = 0;
  const runner = createCallRunner({
    target: () => target,
    nodeId: () => "n1",
    recordUsage: (record) => void usage.push(record),
    newToolCallId: () => `call_${ids++}`,
    metrics: new CallMetrics(new Metrics("node-agent")),
    clock: systemClock,
    logger: silentLogger,
  });
  const start = create(StartCallSchema, {
    number: 1,
    callId: "c1",
    model: "m",
    method: Method.GENERATE,
    request: toBinary(GenerateRequestSchema, create(GenerateRequestSchema, request)),
    relayed: [...relayed],
  });
  runner.start(start, {
    push(all, completionTokens) {
      responses.push(...all);
      counted += completionTokens;
    },
    end: (end) => ended.resolve({ responses, counted, end, usage }),
  });
  return ended.promise;
}

/** What a client puts together from all responses, whatever their cut; log probabilities without their rounding. */
function read(responses: readonly Uint8Array[]) {
  const events = responses.map((bytes) => fromBinary(GenerateResponseSchema, bytes).event);
  const choices: Record<string, object> = {};
  const deltas = events.flatMap((event) => (event.case === "delta" ? [event.value] : []));
  for (const index of new Set(deltas.map((delta) => delta.choiceIndex))) {
    const own = deltas.filter((delta) => delta.choiceIndex === index);
    choices[index] = {
      text: own.map((delta) => delta.text).join(""),
      tokenIds: own.flatMap((delta) => delta.tokenIds),
      logprobs: own.flatMap((delta) => delta.logprobs.map(({ tokenId, logprob }) => [tokenId, logprob.toFixed(1)])),
      toolCalls: own.flatMap((delta) =>
        delta.toolCalls.map(({ index, name, argumentsJson }) => [index, name, argumentsJson]),
      ),
      finishReasons: own.flatMap((delta) =>
        delta.finishReason === FinishReason.UNSPECIFIED ? [] : [delta.finishReason],
      ),
    };
  }
  const of = (kind: GenerateResponse["event"]["case"]) =>
    events.flatMap((event) => (event.case === kind ? [event.value] : []));
  return { choices, started: of("started"), finished: of("finished"), last: events.at(-1)?.case };
}

const chat = (content: string, tools: { name: string; parametersJson: string }[] = []): Init => ({
  input: { case: "chat", value: { messages: [{ role: Role.USER, content }], tools } },
  sampling: { temperature: 0 },
});
const story: Init = { ...chat("Tell me a story about a fox."), maxOutputTokens: 24 };
const both: readonly { readonly name: string; readonly request: Init }[] = [
  { name: "greedy", request: story },
  { name: "seeded, with three choices", request: { ...story, sampling: { temperature: 1, seed: 9n }, choiceCount: 3 } },
  { name: "with log probabilities", request: { ...story, logprobs: { top: 2 } } },
  { name: "with stop strings", request: { ...story, stop: ["e a", " the ", "\u0000"] } },
  {
    name: "with the prompt repeated",
    request: {
      input: { case: "prompt", value: "Once upon a time" },
      sampling: { temperature: 0 },
      echo: true,
      maxOutputTokens: 9,
    },
  },
];
const weather = [{ name: "get_weather", parametersJson: '{"type":"object","properties":{"city":{"type":"string"}}}' }];
const subjects = [
  { name: "sim", create: createSimEngine, modelPath: "", options: { time_scale: "0" }, requests: both },
  {
    name: "llama.cpp",
    create: createLlamaCppEngine,
    modelPath: new URL("../../models/pocket/pocket-1.8m-f16.gguf", import.meta.url).pathname,
    options: {},
    requests: [
      ...both,
      { name: "with a tool call", request: chat("What is the weather in Oslo?", weather) },
      {
        name: "with a JSON object",
        request: {
          ...chat("Give me JSON with the name Ada and the age 36."),
          responseFormat: { format: { case: "jsonObject" as const, value: true } },
        },
      },
    ],
  },
];

describe.each(subjects)("a Generate call that moves, on $name", ({ create, modelPath, options, requests }) => {
  let target: Target;
  beforeAll(async () => {
    target = new Target(create, modelPath, options);
    await target.engine.load(() => {});
  });
  afterAll(() => target.engine.close());

  test.each(requests)("gives its client every byte once, $name, wherever it broke", async ({ request }) => {
    const whole = await run(target, request);
    const expected = read(whole.responses);
    const random = seededRandom(7);
    const { length } = whole.responses;
    const places = [
      1,
      2,
      length - 2,
      length - 1,
      length,
      ...Array.from({ length: 6 }, () => 1 + Math.floor(random.next() * length)),
    ];
    for (const at of places) {
      const relayed = whole.responses.slice(0, at);
      const rest = await run(target, request, relayed);
      const { started, ...seen } = read([...relayed, ...rest.responses]);
      expect({ at, ...seen, started: started.length }).toEqual({ at, ...expected, started: 1 });
      expect(rest.end).toEqual(whole.end);
      expect(rest.counted + countTokens(relayed)).toBe(whole.end.usage?.completionTokens);
    }
  });

  test("is given up, and says nothing more, when its text begins otherwise here", async () => {
    const { responses } = await run(target, story);
    const other = responses.map((bytes) => {
      const response = fromBinary(GenerateResponseSchema, bytes);
      if (response.event.case === "delta") response.event.value.text = `#${response.event.value.text}`;
      return toBinary(GenerateResponseSchema, response);
    });
    // Started and the first delta: how many deltas follow is the engine's pace.
    const { end, responses: more, usage } = await run(target, story, other.slice(0, 2));
    expect(end.reason).toBe(Reason.CANNOT_CONTINUE);
    expect(more).toEqual([]);
    expect(usage).toHaveLength(1);
  });
});

describe("the responses that a moved call comes with", () => {
  const untouched: CallTarget = {
    generate() {
      throw new Error("no sequence is begun");
    },
    embed: () => Promise.reject(new Error("not asked for")),
    countTokens: () => Promise.reject(new Error("not asked for")),
  };
  const encoded = (...events: GenerateResponse["event"][]) =>
    events.map((event) => toBinary(GenerateResponseSchema, create(GenerateResponseSchema, { event })));
  const started = fromBinary(
    GenerateResponseSchema,
    toBinary(
      GenerateResponseSchema,
      create(GenerateResponseSchema, { event: { case: "started", value: { promptTokens: 9, cachedTokens: 4 } } }),
    ),
  ).event;
  const delta = (choiceIndex: number, more: object = {}): GenerateResponse["event"] =>
    create(GenerateResponseSchema, {
      event: { case: "delta", value: { choiceIndex, text: "a", tokenIds: [5], ...more } },
    }).event;

  test("are all there is when every choice has ended: only Finished is missing", async () => {
    const done = { finishReason: FinishReason.STOP };
    const relayed = encoded(started, delta(1, done), delta(0, { finishReason: FinishReason.LENGTH }));
    const { responses, end, counted } = await run(untouched, { ...story, choiceCount: 2 }, relayed);
    const usage = { promptTokens: 9, cachedTokens: 4, completionTokens: 2 };
    expect(read(responses).finished).toMatchObject([
      { finishReasons: [FinishReason.LENGTH, FinishReason.STOP], usage },
    ]);
    expect(end).toMatchObject({ reason: 0, usage });
    expect({ responses: responses.length, counted }).toEqual({ responses: 1, counted: 0 });
  });

  test.each([
    ["no Started comes first", encoded(delta(0)), story, Reason.CANNOT_CONTINUE],
    ["a choice was not asked for", encoded(started, delta(1)), story, Reason.CANNOT_CONTINUE],
    [
      "log probabilities are missing",
      encoded(started, delta(0)),
      { ...story, logprobs: { top: 1 } },
      Reason.CANNOT_CONTINUE,
    ],
    ["one is of no known kind", [new Uint8Array(0)], story, Reason.CANNOT_CONTINUE],
    ["one is no message", [Uint8Array.of(255)], story, Reason.INVALID_REQUEST],
  ] satisfies [string, Uint8Array[], Init, Reason][])(
    "are refused where %s",
    async (_why, relayed, request, reason) => {
      const { responses, end } = await run(untouched, request, relayed);
      expect({ reason: end.reason, responses }).toEqual({ reason, responses: [] });
    },
  );
});

function countTokens(responses: readonly Uint8Array[]): number {
  const events = responses.map((bytes) => fromBinary(GenerateResponseSchema, bytes).event);
  return events.reduce((sum, event) => sum + (event.case === "delta" ? event.value.tokenIds.length : 0), 0);
}

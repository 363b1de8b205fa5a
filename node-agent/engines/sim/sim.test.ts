import { create } from "@bufbuild/protobuf";
import { describe, expect, test } from "vitest";
import { GenerateRequestSchema, Role } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { DesiredReplicaSchema } from "#gen/helixmesh/node/v1/node_pb.ts";
import { ManualClock } from "#kernel/clock.ts";
import { seededRandom } from "#kernel/random.ts";
import { engineContract } from "../contract.ts";
import { EngineProbe } from "../engine-probe.ts";
import { createSimEngine, simEngine } from "./index.ts";
import { pieceOf, tokenize } from "./language.ts";

const fast = { time_scale: "0", step_base_us: "0" };

engineContract("sim", {
  create: createSimEngine,
  modelPath: "",
  replica: { parallelSequences: 8, contextTokens: 1_024, engineOptions: fast },
  bounded: { parallelSequences: 1, contextTokens: 1_024, engineOptions: { ...fast, queue_limit: "1" } },
  longPrompt: "Tell me a long story about a fox.",
  movable: [],
  unsupported: [
    {
      field: "response_format.json_object",
      request: { responseFormat: { format: { case: "jsonObject", value: true } } },
    },
    {
      field: "response_format.json_schema",
      request: { responseFormat: { format: { case: "jsonSchema", value: "{}" } } },
    },
    { field: "response_format.grammar", request: { responseFormat: { format: { case: "grammar", value: "x" } } } },
    {
      field: "chat.tools[0].strict",
      request: {
        input: {
          case: "chat",
          value: { messages: [{ role: Role.USER, content: "a" }], tools: [{ name: "f", strict: true }] },
        },
      },
    },
    { field: "sampling.logit_bias", request: { sampling: { logitBias: { 5: 1 } } } },
  ],
});

function ask(prompt: string, maxOutputTokens: number, seed = 1n) {
  const input = { case: "prompt" as const, value: prompt };
  return create(GenerateRequestSchema, { model: "m", input, maxOutputTokens, sampling: { seed } });
}

async function onManualClock(engineOptions: Record<string, string>, parallelSequences = 256) {
  const clock = new ManualClock();
  const createEngine = simEngine({ clock, random: seededRandom(1) });
  const replica = create(DesiredReplicaSchema, { parallelSequences, engineOptions });
  const probe = new EngineProbe((events) => createEngine({ replica, modelPath: "", ...events }));
  await probe.engine.load(() => {});
  return { clock, probe };
}

describe("SimEngine", () => {
  test("takes the time that its model states", async () => {
    const { clock, probe } = await onManualClock({
      step_base_us: "1000",
      step_per_sequence_us: "500",
      prefill_tokens_per_s: "1000",
    });
    const startMs = clock.monotonicMs();
    const calls = [1n, 2n].map((seed) => probe.begin(ask("one two three", 4, seed)));
    let endedMs = 0;
    void calls[1]?.finished.then(() => (endedMs = clock.monotonicMs()));
    // One step of prefill: 1 ms and 6 tokens at 1 a millisecond; then four steps of 1 ms and two half ones.
    for (let elapsedMs = 0; elapsedMs < 20; elapsedMs += 0.5) {
      clock.advance(0.5);
      await Promise.resolve();
    }
    expect(endedMs - startMs).toBeCloseTo(7 + 4 * 2, 5);
  });

  test("says how far its loading is, by the per cent", async () => {
    const clock = new ManualClock();
    const createEngine = simEngine({ clock, random: seededRandom(1) });
    const replica = create(DesiredReplicaSchema, { engineOptions: { load_ms: "10000" } });
    const probe = new EngineProbe((events) => createEngine({ replica, modelPath: "", ...events }));
    const shares: number[] = [];
    const loading = probe.engine.load((state, share) => void (state === "loading" && shares.push(share)));
    for (let elapsedMs = 0; elapsedMs < 10_000; elapsedMs += 100) {
      clock.advance(100);
      await new Promise(setImmediate);
    }
    await loading;
    expect(shares).toEqual(Array.from({ length: 101 }, (_, step) => step / 100));
  });

  test("admits no more than its KV cache holds", async () => {
    const { clock, probe } = await onManualClock({ kv_tokens: "30" });
    const calls = [1, 2].map(() => probe.begin(ask("a b c d", 16)));
    clock.advance(1);
    expect(probe.engine.readLoad()).toMatchObject({ running: 1, queued: 1 });
    clock.advance(1_000);
    await Promise.all(calls.map((call) => call.finished));
    expect(probe.engine.readLoad()).toMatchObject({ running: 0, queued: 0, kvUsedTokens: 0n });
  });

  test("goes on identically from a text that another node began", async () => {
    const { clock, probe } = await onManualClock({});
    const whole = probe.begin(ask("Once upon a time", 40, 9n));
    clock.advance(5_000);
    const { tokenIds, text } = await whole.finished;
    const prefix = tokenIds.slice(0, 15).map(pieceOf).join("");
    const resumed = probe.begin(ask(`Once upon a time${prefix}`, 25, 9n));
    clock.advance(5_000);
    expect(prefix + (await resumed.finished).text).toBe(text);
  });

  test("fails all calls and then itself when told to crash", async () => {
    const { clock, probe } = await onManualClock({ crash_after_tokens: "3" });
    const call = probe.begin(ask("a", 50));
    clock.advance(1_000);
    const error = await call.error;
    expect(probe.failures).toEqual([error]);
  });

  test("cuts a text into tokens that join to the same text", () => {
    const text = " the people came over there";
    expect(tokenize(text).map(pieceOf).join("")).toBe(text);
  });
});

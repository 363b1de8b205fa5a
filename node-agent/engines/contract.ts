import { create } from "@bufbuild/protobuf";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import {
  CountTokensRequestSchema,
  EmbedRequestSchema,
  FinishReason,
  type GenerateRequest,
  GenerateRequestSchema,
} from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { type DesiredReplica, DesiredReplicaSchema } from "#gen/helixmesh/node/v1/node_pb.ts";
import type { EngineCapabilities } from "#gen/helixmesh/type/v1/type_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { promptBlocks } from "#kernel/prompt-blocks.ts";
import { seededRandom } from "#kernel/random.ts";
import type { CreateEngine } from "./engine.ts";
import type { PrefixNews } from "./prefix-news.ts";
import { EngineProbe, type Outcome } from "./engine-probe.ts";

/** What the suite must know of an engine to hold it to the contract. */
export interface EngineSubject {
  readonly create: CreateEngine;
  readonly modelPath: string;
  /** At least four sequences at once and a queue for twenty calls; what is unset is the suite's. */
  readonly replica: MessageInitShape<typeof DesiredReplicaSchema>;
  /** The same with one sequence at once and room for exactly one call that waits. */
  readonly bounded: MessageInitShape<typeof DesiredReplicaSchema>;
  /** A prompt that every temperature answers with at least 40 tokens unless max_output_tokens says less. */
  readonly longPrompt: string;
  /** Requests that must be refused, with the field that the refusal names. */
  /** Requests besides the suite's own whose answers must continue elsewhere as if they had not moved. */
  readonly movable: readonly { readonly name: string; readonly request: RequestInit }[];
  readonly unsupported: readonly { readonly field: string; readonly request: RequestInit }[];
}

/** Fields of a request, without those that the suite fills. */
type RequestInit = Exclude<MessageInitShape<typeof GenerateRequestSchema>, GenerateRequest>;

/** The suite that every engine passes; called from the engine's own test file. */
export function engineContract(name: string, subject: EngineSubject): void {
  describe(`engine contract: ${name}`, () => {
    const opened: EngineProbe[] = [];
    const breaks = seededRandom(2_026);
    afterEach(async () => {
      await Promise.all(opened.splice(0).map((probe) => probe.engine.close()));
    });

    async function open(
      init: MessageInitShape<typeof DesiredReplicaSchema> = subject.replica,
    ): Promise<{ probe: EngineProbe; capabilities: EngineCapabilities }> {
      const probe = probeFor(init);
      opened.push(probe);
      const capabilities = await probe.engine.load(() => {});
      return { probe, capabilities };
    }
    function probeFor(init: MessageInitShape<typeof DesiredReplicaSchema>): EngineProbe {
      const replica: DesiredReplica = create(DesiredReplicaSchema, init);
      return new EngineProbe((events) => subject.create({ replica, modelPath: subject.modelPath, ...events }));
    }
    function ask(init: RequestInit = {}): GenerateRequest {
      const input = { case: "prompt" as const, value: subject.longPrompt };
      return create(GenerateRequestSchema, {
        model: "m",
        input,
        sampling: { temperature: 0 },
        maxOutputTokens: 24,
        ...init,
      });
    }

    test("reports loading before warming, with progress from 0 to 1", async () => {
      const states: string[] = [];
      const progress: number[] = [];
      const probe = probeFor(subject.replica);
      opened.push(probe);
      await probe.engine.load((state, share) => {
        if (states.at(-1) !== state) states.push(state);
        progress.push(share);
      });
      expect(states).toEqual(["loading", "warming"]);
      expect(progress.every((share) => share >= 0 && share <= 1)).toBe(true);
    });

    test("refuses to load with an engine option it does not know, and names it", async () => {
      const probe = probeFor({
        ...subject.replica,
        engineOptions: { ...subject.replica.engineOptions, no_such_option: "1" },
      });
      opened.push(probe);
      const error = await probe.engine
        .load(() => {})
        .then(
          () => undefined,
          (error: unknown) => MeshError.from(error),
        );
      expect(error?.message).toContain("no_such_option");
    });

    test("says started, then tokens, then finished, and nothing after", async () => {
      const { probe } = await open();
      const outcome = await probe.run(ask());
      expect(outcome.kinds[0]).toBe("started");
      expect(outcome.kinds.at(-1)).toBe("finished");
      expect(new Set(outcome.kinds.slice(1, -1))).toEqual(new Set(["tokens"]));
      await probe.run(ask());
      expect(probe.strays).toEqual([]);
    });

    test("counts every token it generated, and the prompt as CountTokens does", async () => {
      const { probe } = await open();
      const outcome = await probe.run(ask());
      const counted = await probe.engine.countTokens(
        create(CountTokensRequestSchema, { model: "m", input: { case: "prompt", value: subject.longPrompt } }),
      );
      expect(outcome.completionTokens).toBe(outcome.tokenIds.length);
      expect(outcome.promptTokens).toBe(counted.promptTokens);
      expect(counted.tokenIds).toHaveLength(counted.promptTokens);
    });

    test("ends with LENGTH after exactly max_output_tokens", async () => {
      const { probe } = await open();
      const outcome = await probe.run(ask({ maxOutputTokens: 7 }));
      expect(outcome.reason).toBe(FinishReason.LENGTH);
      expect(outcome.tokenIds).toHaveLength(7);
    });

    test("gives one text for greedy sampling, alone and among twenty at once", async () => {
      const { probe } = await open();
      const alone = await probe.run(ask());
      const crowd = await Promise.all(Array.from({ length: 20 }, () => probe.run(ask())));
      expect(new Set(crowd.map((outcome) => outcome.text))).toEqual(new Set([alone.text]));
      expect(crowd.every((outcome) => outcome.completionTokens === alone.completionTokens)).toBe(true);
    });

    test("cuts at a stop string wherever token borders lie", async () => {
      const { probe } = await open();
      const { text } = await probe.run(ask());
      const stops = [3, 8, 13, 18, 23].map((at) => text.slice(at, at + 5)).filter((stop) => stop.length === 5);
      expect(stops).toHaveLength(5);
      const cut = await Promise.all(stops.map((stop) => probe.run(ask({ stop: [stop] }))));
      expect(cut.map((outcome) => outcome.text)).toEqual(stops.map((stop) => text.slice(0, text.indexOf(stop))));
      expect(cut.every((outcome) => outcome.reason === FinishReason.STOP)).toBe(true);
    });

    test("gives back what it held for a stop string that never came", async () => {
      const { probe } = await open();
      const whole = await probe.run(ask());
      const held = await probe.run(ask({ stop: [`${whole.text.slice(-4)}\u0000`] }));
      expect(held.text).toBe(whole.text);
    });

    test("repeats itself for the same seed, and choice i is seed + i", async () => {
      const { probe } = await open();
      const seeded = (seed: bigint, choice: number) => probe.run(ask({ sampling: { temperature: 1, seed } }), choice);
      const [first, again, next, choice] = await Promise.all([
        seeded(7n, 0),
        seeded(7n, 0),
        seeded(8n, 0),
        seeded(7n, 1),
      ]);
      expect(again.text).toBe(first.text);
      expect(choice.text).toBe(next.text);
      expect(next.text).not.toBe(first.text);
    });

    const movable: readonly { readonly name: string; readonly request: RequestInit }[] = [
      { name: "a greedy call", request: {} },
      { name: "a seeded call", request: { sampling: { temperature: 1, seed: 11n } } },
      {
        name: "a call to its natural end",
        request: { maxOutputTokens: 120, sampling: { temperature: 0.7, seed: 3n } },
      },
      { name: "a call with log probabilities", request: { logprobs: { top: 2 } } },
      {
        name: "a penalised call",
        request: { sampling: { temperature: 0, frequencyPenalty: 0.8, presencePenalty: 0.3 } },
      },
      {
        name: "a seeded, penalised and truncated call",
        request: { sampling: { temperature: 1.2, seed: 5n, topP: 0.9, topK: 40, minP: 0.02, frequencyPenalty: 0.5 } },
      },
      ...subject.movable,
    ];
    describe("for a call that moves", () => {
      let probe: EngineProbe;
      let other: EngineProbe;
      beforeAll(async () => {
        [probe, other] = [probeFor(subject.replica), probeFor(subject.replica)];
        await Promise.all([probe, other].map(({ engine }) => engine.load(() => {})));
      });
      afterAll(() => Promise.all([probe, other].map(({ engine }) => engine.close())));

      test.each(movable)("continues $name that another engine began, wherever it broke", async ({ request }) => {
        const asked = ask(request);
        for (const choice of [0, 2]) {
          const whole = await probe.run(asked, choice);
          await continuesAlike(other, asked, choice, whole);
        }
      });

      test("continues a call whose stop string straddles the break", async () => {
        const { text } = await probe.run(ask());
        for (const at of [3, 9, 17]) {
          const asked = ask({ stop: [text.slice(at, at + 7), "\u0000"] });
          const whole = await probe.run(asked);
          expect(whole.reason).toBe(FinishReason.STOP);
          await continuesAlike(probe, asked, 0, whole);
        }
      });

      test("goes on alike where it broke while a stop string was still possible", async () => {
        const { text } = await probe.run(ask());
        const asked = ask({ stop: [text.slice(5, 14).concat("\u0000"), `${text.slice(-6)}\u0000`] });
        await continuesAlike(probe, asked, 0, await probe.run(asked));
      });

      test("ends a moved call that cannot be its own with CANNOT_CONTINUE", async () => {
        const { tokenIds } = await probe.run(ask());
        const errors = [
          await probe.begin(ask(), 0, [4_000_000]).error,
          await probe.begin(ask({ maxOutputTokens: 3 }), 0, tokenIds.slice(0, 4)).error,
        ];
        expect(errors.map((error) => error.reason)).toEqual([Reason.CANNOT_CONTINUE, Reason.CANNOT_CONTINUE]);
      });

      /** Held at the first token, the last one, the end, and places between that differ from call to call. */
      async function continuesAlike(
        probe: EngineProbe,
        request: GenerateRequest,
        choice: number,
        whole: Outcome,
      ): Promise<void> {
        const { length } = whole.tokenIds;
        const places = [
          1,
          length - 1,
          length,
          ...Array.from({ length: 4 }, () => 1 + Math.floor(breaks.next() * length)),
        ];
        const continued = await Promise.all(
          places.map((at) => probe.run(request, choice, whole.tokenIds.slice(0, at))),
        );
        for (const [index, outcome] of continued.entries()) {
          const at = places[index] ?? 0;
          const { text, tokenIds, reason, completionTokens, promptTokens } = outcome;
          expect({ at, text, tokenIds, reason, completionTokens, promptTokens }).toEqual({
            at,
            text: whole.text,
            tokenIds: whole.tokenIds.slice(at),
            reason: whole.reason,
            completionTokens: whole.completionTokens,
            promptTokens: whole.promptTokens,
          });
          const probabilities = (of: Outcome) =>
            of.logprobs.map(({ tokenId, logprob }) => [tokenId, logprob.toFixed(1)]);
          expect(probabilities(outcome)).toEqual(probabilities(whole).slice(at));
        }
      }
    });

    test("stops a cancelled call within a step and counts what it had generated", async () => {
      const { probe } = await open();
      const call = probe.begin(ask({ maxOutputTokens: 200 }));
      await call.firstToken;
      const stepsBefore = call.steps();
      probe.engine.cancel(call.id);
      const error = await call.error;
      expect(error.reason).toBe(Reason.CANCELLED);
      const outcome = call.soFar();
      expect(outcome.completionTokens).toBe(outcome.tokenIds.length);
      // One step may be on its way already, and the engine may live in another process.
      expect(call.steps() - stepsBefore).toBeLessThanOrEqual(8);
      expect(probe.engine.readLoad().running).toBe(0);
    });

    test("ignores the cancellation of a call it does not know", async () => {
      const { probe } = await open();
      probe.engine.cancel(4_711);
      expect((await probe.run(ask({ maxOutputTokens: 3 }))).tokenIds).toHaveLength(3);
    });

    test("refuses a prompt that is longer than the context, and names the limit", async () => {
      const { probe, capabilities } = await open();
      const prompt = "word ".repeat(capabilities.contextTokens + 1);
      const error = await probe.begin(ask({ input: { case: "prompt", value: prompt } })).error;
      expect(error.reason).toBe(Reason.CONTEXT_LENGTH_EXCEEDED);
      expect(error.limit).toContain(String(capabilities.contextTokens));
      expect((await probe.run(ask({ maxOutputTokens: 3 }))).tokenIds).toHaveLength(3);
    });

    test("refuses with OVERLOADED what its queue has no room for", async () => {
      const { probe } = await open(subject.bounded);
      const calls = [1, 2, 3].map(() => probe.begin(ask({ maxOutputTokens: 40 })));
      const third = calls[2];
      expect((await third?.error)?.reason).toBe(Reason.OVERLOADED);
      await Promise.all(calls.slice(0, 2).map((call) => call.finished));
    });

    test.each(subject.unsupported)("refuses $field by name", async ({ field, request }) => {
      const { probe } = await open();
      const error = await probe.begin(ask(request)).error;
      expect({ reason: error.reason, field: error.field }).toEqual({ reason: Reason.UNSUPPORTED_PARAMETER, field });
    });

    test("answers logprobs for each token, or refuses them by name", async () => {
      const { probe, capabilities } = await open();
      const call = probe.begin(ask({ logprobs: { top: 3 }, maxOutputTokens: 5 }));
      const outcome = await Promise.race([call.finished, call.error]);
      const seen =
        outcome instanceof MeshError
          ? outcome.field
          : outcome.logprobs.map(({ tokenId, logprob, top }) => ({ tokenId, top: top.length, sane: logprob <= 0 }));
      const wanted = call.soFar().tokenIds.map((tokenId) => ({ tokenId, top: 3, sane: true }));
      expect(seen).toEqual(capabilities.logprobs ? wanted : "logprobs");
    });

    test("embeds to unit length, the same text to the same vector, or refuses", async () => {
      const { probe, capabilities } = await open();
      const inputs = ["green stone", "another", "green stone"].map((value) => ({
        input: { case: "text" as const, value },
      }));
      const answer = await probe.engine.embed(create(EmbedRequestSchema, { model: "m", inputs })).then(
        ({ embeddings, usage }) => {
          const [first, second, third] = embeddings.map((embedding) => embedding.values);
          return {
            dimensions: first?.length,
            unit: embeddings.map(({ values }) => Math.round(Math.hypot(...values) * 1_000) / 1_000),
            same: String(first) === String(third),
            different: String(first) !== String(second),
            counted: (usage?.promptTokens ?? 0) > 0,
          };
        },
        (error: unknown) => MeshError.from(error).reason,
      );
      const dimensions = capabilities.embeddingDimensions;
      const embedded = { dimensions, unit: [1, 1, 1], same: true, different: true, counted: true };
      expect(answer).toEqual(capabilities.embed ? embedded : Reason.UNSUPPORTED_PARAMETER);
    });

    test("tells the prefixes of prompts that it holds, and finds them when they come again", async () => {
      const news: PrefixNews[] = [];
      const replica: DesiredReplica = create(DesiredReplicaSchema, subject.replica);
      const prefixes = { blockBytes: 64, maxBlocks: 1_000, onChange: (one: PrefixNews) => void news.push(one) };
      const probe = new EngineProbe((events) =>
        subject.create({ replica, modelPath: subject.modelPath, prefixes, ...events }),
      );
      opened.push(probe);
      await probe.engine.load(() => {});
      const asked = (prompt: string) => ask({ input: { case: "prompt", value: prompt }, maxOutputTokens: 2 });
      const long = asked("There was a house by the sea, and a fox lived in it. ".repeat(8));
      const other = asked("An owl that could not sleep went out to count the stars. ".repeat(8));
      const first = await probe.run(long);
      await probe.run(other);
      const again = await probe.run(long);
      expect(first.cachedTokens).toBeLessThan(first.promptTokens / 4);
      expect(again.cachedTokens).toBeGreaterThan(first.promptTokens / 2);
      const held = new Set(news.flatMap(({ added }) => added));
      expect(held).toEqual(new Set([...promptBlocks(long, 64, 1_000), ...promptBlocks(other, 64, 1_000)]));
      expect(news.flatMap(({ removed }) => removed)).toEqual([]);
    });

    test("tells prefixes that it has let go of", async () => {
      const held = new Set<number>();
      let cut = 0;
      const onChange = (news: PrefixNews): void => {
        for (const hash of news.added) held.add(hash);
        for (const hash of news.removed) expect(held.delete(hash)).toBe(true);
        cut += news.cut;
      };
      const replica: DesiredReplica = create(DesiredReplicaSchema, subject.bounded);
      const prefixes = { blockBytes: 32, maxBlocks: 8, onChange };
      const probe = new EngineProbe((events) =>
        subject.create({ replica, modelPath: subject.modelPath, prefixes, ...events }),
      );
      opened.push(probe);
      await probe.engine.load(() => {});
      const asked = (text: string) =>
        ask({ input: { case: "prompt", value: `${text} `.repeat(100).slice(0, 300) }, maxOutputTokens: 2 });
      for (const text of ["a fox", "an owl", "a badger"]) await probe.run(asked(text));
      expect(held).toEqual(new Set(promptBlocks(asked("a badger"), 32, 8)));
      expect(cut).toBe(3);
    });

    test("has nothing running, queued or cached for calls once all have ended", async () => {
      const { probe } = await open();
      await Promise.all(Array.from({ length: 6 }, () => probe.run(ask({ maxOutputTokens: 5 }))));
      const load = probe.engine.readLoad();
      expect({ running: load.running, queued: load.queued, backlog: load.prefillBacklogTokens }).toEqual({
        running: 0,
        queued: 0,
        backlog: 0n,
      });
      expect(load.kvTotalTokens).toBeGreaterThan(0n);
    });

    test("ends all that runs and waits with DRAINING when it is closed, and refuses more", async () => {
      const { probe } = await open(subject.bounded);
      const calls = [1, 2].map(() => probe.begin(ask({ maxOutputTokens: 200 })));
      await calls[0]?.firstToken;
      await probe.engine.close();
      await probe.engine.close();
      const errors = await Promise.all(calls.map((call) => call.error));
      expect(errors.map((error) => error.reason)).toEqual([Reason.DRAINING, Reason.DRAINING]);
      expect((await probe.begin(ask()).error).reason).toBe(Reason.DRAINING);
      expect(probe.failures).toEqual([]);
    });
  });
}

import { create } from "@bufbuild/protobuf";
import { describe, expect, test } from "vitest";
import { FinishReason, GenerateResponseSchema } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import type { ScriptedEvent } from "../openai/scripted-calls.ts";
import { readCompletionRequest } from "./request.ts";
import { completionAnswer } from "./response.ts";

function answer(parameters: object, events: readonly (readonly [number, ScriptedEvent])[]): string {
  const request = readCompletionRequest({ model: "m", prompt: ["p", "q"], ...parameters });
  const translation = completionAnswer({ callId: "call_1", ids: { created: 1, idPrefix: undefined, had: 0 }, request });
  const parts = events.map(([call, event]) => translation.take(create(GenerateResponseSchema, { event }).event, call));
  return parts.join("") + translation.end();
}

const usage = { promptTokens: 2, completionTokens: 1 };
const token = (text: string, logprob: number): object => ({
  token: text,
  logprob,
  tokenId: 1,
  top: [{ token: text, logprob }],
});
const events: (readonly [number, ScriptedEvent])[] = [
  [0, { case: "started", value: { model: "pocket" } }],
  [1, { case: "delta", value: { choiceIndex: 1, text: "d", logprobs: [token("d", -1)] } }],
  [0, { case: "delta", value: { choiceIndex: 0, text: "a", finishReason: FinishReason.STOP } }],
  [0, { case: "finished", value: { usage } }],
  [
    1,
    {
      case: "delta",
      value: { choiceIndex: 1, text: "e", logprobs: [token("e", -2)], finishReason: FinishReason.LENGTH },
    },
  ],
  [1, { case: "finished", value: { usage } }],
];

describe("a completion answer", () => {
  test("numbers choices by prompt and sums usage", () => {
    const body = JSON.parse(answer({ n: 2, logprobs: 1 }, events)) as { choices: object[] };
    expect(body).toMatchObject({
      id: "cmpl-call_1",
      object: "text_completion",
      created: 1,
      model: "pocket",
      usage: { prompt_tokens: 4, completion_tokens: 2, total_tokens: 6 },
    });
    expect(body.choices).toHaveLength(4);
    expect(body.choices[0]).toMatchObject({ index: 0, text: "a", finish_reason: "stop" });
    expect(body.choices[3]).toEqual({
      index: 3,
      text: "de",
      logprobs: {
        tokens: ["d", "e"],
        token_logprobs: [-1, -2],
        top_logprobs: [{ d: -1 }, { e: -2 }],
        text_offset: [0, 1],
      },
      finish_reason: "length",
    });
  });

  test("streams chunks of the same form", () => {
    const text = answer({ n: 2, logprobs: 1, stream: true, stream_options: { include_usage: true } }, events);
    const lines = text.split("\n\n");
    expect(lines.slice(-2)).toEqual(["data: [DONE]", ""]);
    const chunks = lines
      .slice(0, -2)
      .map((line) => JSON.parse(line.slice("data: ".length)) as { choices: object[]; usage: object | null });
    expect(chunks.map(({ choices }) => choices[0])).toEqual([
      expect.objectContaining({ index: 3, text: "d", finish_reason: null }),
      { index: 0, text: "a", logprobs: null, finish_reason: "stop" },
      expect.objectContaining({
        index: 3,
        text: "e",
        finish_reason: "length",
        logprobs: expect.objectContaining({ text_offset: [1] }) as unknown,
      }),
      undefined,
    ]);
    expect(chunks.map(({ usage }) => usage?.constructor ?? null)).toEqual([null, null, null, Object]);
  });
});

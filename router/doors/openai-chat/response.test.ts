import { create, toBinary } from "@bufbuild/protobuf";
import { describe, expect, test } from "vitest";
import { FinishReason, GenerateResponseSchema } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { PlainDelta } from "../openai/plain-delta.ts";
import type { ScriptedEvent } from "../openai/scripted-calls.ts";
import { readChatRequest } from "./request.ts";
import { chatAnswer } from "./response.ts";

const started: ScriptedEvent = { case: "started", value: { model: "pocket" } };
const finished: ScriptedEvent = {
  case: "finished",
  value: { usage: { promptTokens: 5, cachedTokens: 2, completionTokens: 3 } },
};

const ids = { created: 1_700_000_000, idPrefix: "call_1:x:", had: 0 };

function answer(parameters: object, events: readonly ScriptedEvent[]): string {
  const request = readChatRequest({ model: "alias", messages: [{ role: "user", content: "Hi" }], ...parameters });
  const translation = chatAnswer({ callId: "call_1", ids, request });
  const parts = events.map((event) => translation.take(create(GenerateResponseSchema, { event }).event, 0));
  return parts.join("") + translation.end();
}

function chunks(parameters: object, events: readonly ScriptedEvent[]): unknown[] {
  const lines = answer({ stream: true, ...parameters }, events).split("\n\n");
  expect(lines.slice(-2)).toEqual(["data: [DONE]", ""]);
  return lines.slice(0, -2).map((event) => JSON.parse(/^data: (.*)\nid: /.exec(event)?.[1] ?? "") as unknown);
}

const head = {
  id: "chatcmpl-call_1",
  object: "chat.completion.chunk",
  created: 1_700_000_000,
  model: "pocket",
  system_fingerprint: expect.stringMatching(/^fp_[0-9a-f]{8}$/) as unknown,
};
const usage = {
  prompt_tokens: 5,
  completion_tokens: 3,
  total_tokens: 8,
  prompt_tokens_details: { cached_tokens: 2, audio_tokens: 0 },
  completion_tokens_details: {
    reasoning_tokens: 0,
    audio_tokens: 0,
    accepted_prediction_tokens: 0,
    rejected_prediction_tokens: 0,
  },
};

const toolCallEvents: ScriptedEvent[] = [
  started,
  { case: "delta", value: { toolCalls: [{ index: 0, id: "call_a", name: "f" }] } },
  { case: "delta", value: { toolCalls: [{ index: 0, argumentsJson: '{"x":' }] } },
  {
    case: "delta",
    value: {
      toolCalls: [
        { index: 0, argumentsJson: "1}" },
        { index: 1, id: "call_b", name: "g", argumentsJson: "{}" },
      ],
    },
  },
  { case: "delta", value: { finishReason: FinishReason.TOOL_CALLS } },
  finished,
];

describe("a streamed chat answer", () => {
  const events: ScriptedEvent[] = [
    started,
    { case: "delta", value: { text: "To" } },
    { case: "delta", value: { text: "" } },
    { case: "delta", value: { text: "kyo", finishReason: FinishReason.STOP } },
    finished,
  ];

  test("sends the role, the text, the reason and [DONE]", () => {
    const choice = (delta: object, finish_reason: string | null = null): object => ({
      ...head,
      choices: [{ index: 0, delta, logprobs: null, finish_reason }],
    });
    expect(chunks({}, events)).toEqual([
      choice({ role: "assistant", content: "", refusal: null }),
      choice({ content: "To" }),
      choice({ content: "kyo" }),
      choice({}, "stop"),
    ]);
  });

  test("sends usage in a last chunk without choices when asked, and null before", () => {
    const all = chunks({ stream_options: { include_usage: true } }, events);
    expect(all.at(-1)).toEqual({ ...head, choices: [], usage });
    expect(all.slice(0, -1)).toEqual(all.slice(0, -1).map(() => expect.objectContaining({ usage: null }) as unknown));
  });

  test("ends with another fingerprint when its seed does not repeat it", () => {
    const moved: ScriptedEvent = { ...finished, value: { ...finished.value, unrepeatable: true } };
    const all = chunks({ seed: 1 }, [...events.slice(0, -1), moved]) as { system_fingerprint: string }[];
    expect(all.slice(0, -1)).toEqual(chunks({ seed: 1 }, events));
    expect(all.at(-1)).toEqual({ ...head, choices: [] });
    expect(all.at(-1)?.system_fingerprint).not.toBe(all[0]?.system_fingerprint);
  });

  test("is the same from deltas that were not decoded", () => {
    const texts: ScriptedEvent[] = ["To", 'k"y\n', "", "é🙂"].flatMap((text) => [
      { case: "delta", value: { text, tokenIds: [5] } },
      { case: "delta", value: { text, choiceIndex: 1 } },
    ]);
    const parameters = { n: 2, stream: true };
    const decoded = answer(parameters, [started, ...texts, finished]);
    const request = readChatRequest({ model: "alias", messages: [{ role: "user", content: "Hi" }], ...parameters });
    const translation = chatAnswer({ callId: "call_1", ids, request });
    const plain = new PlainDelta();
    let skipped = 0;
    const parts = [started, ...texts, finished].map((event) => {
      const message = create(GenerateResponseSchema, { event });
      const bytes = toBinary(GenerateResponseSchema, message);
      const text = plain.read(bytes, 0, bytes.length) ? translation.takePlain(plain, 0) : undefined;
      skipped += Number(text !== undefined);
      return text ?? translation.take(message.event, 0);
    });
    expect(parts.join("") + translation.end()).toBe(decoded);
    // All but the first of each choice, which brings the role.
    expect(skipped).toBe(6);
  });

  test("sends nothing before the first delta", () => {
    const request = readChatRequest({ model: "m", messages: [{ role: "user", content: "" }], stream: true });
    const translation = chatAnswer({ callId: "c", ids, request });
    expect(translation.take(create(GenerateResponseSchema, { event: started }).event, 0)).toBe("");
  });

  test("streams tool calls by index", () => {
    const deltas = chunks({}, toolCallEvents).map(
      (chunk) => (chunk as { choices: { delta: object }[] }).choices[0]?.delta,
    );
    expect(deltas).toEqual([
      { role: "assistant", content: null, refusal: null },
      { tool_calls: [{ index: 0, id: "call_a", type: "function", function: { name: "f", arguments: "" } }] },
      { tool_calls: [{ index: 0, function: { arguments: '{"x":' } }] },
      {
        tool_calls: [
          { index: 0, function: { arguments: "1}" } },
          { index: 1, id: "call_b", type: "function", function: { name: "g", arguments: "{}" } },
        ],
      },
      {},
    ]);
  });

  test("repeats the service tier when one was asked for", () => {
    expect(chunks({ service_tier: "auto" }, events)[0]).toMatchObject({ service_tier: "default" });
  });
});

describe("a whole chat answer", () => {
  test("has another fingerprint when its seed does not repeat it", () => {
    const fingerprint = (unrepeatable: boolean): string => {
      const value = { ...finished.value, unrepeatable };
      const body = JSON.parse(answer({ seed: 1 }, [started, { ...finished, value }])) as { system_fingerprint: string };
      return body.system_fingerprint;
    };
    expect(fingerprint(true)).toMatch(/^fp_[0-9a-f]{8}$/);
    expect(fingerprint(true)).not.toBe(fingerprint(false));
  });

  test("gathers choices that came interleaved", () => {
    const body = JSON.parse(
      answer({ n: 2 }, [
        started,
        { case: "delta", value: { choiceIndex: 1, text: "b" } },
        { case: "delta", value: { choiceIndex: 0, text: "a", finishReason: FinishReason.LENGTH } },
        { case: "delta", value: { choiceIndex: 1, text: "c", finishReason: FinishReason.STOP } },
        finished,
      ]),
    ) as unknown;
    const message = (content: string): object => ({ role: "assistant", content, refusal: null, annotations: [] });
    expect(body).toEqual({
      ...head,
      object: "chat.completion",
      choices: [
        { index: 0, message: message("a"), logprobs: null, finish_reason: "length" },
        { index: 1, message: message("bc"), logprobs: null, finish_reason: "stop" },
      ],
      usage,
    });
  });

  test("gathers tool calls, and only the first without parallel calls", () => {
    const first = { id: "call_a", type: "function", function: { name: "f", arguments: '{"x":1}' } };
    const second = { id: "call_b", type: "function", function: { name: "g", arguments: "{}" } };
    const message = (calls: object[]): object => ({
      choices: [{ finish_reason: "tool_calls", message: { content: null, tool_calls: calls } }],
    });
    expect(JSON.parse(answer({}, toolCallEvents))).toMatchObject(message([first, second]));
    expect(JSON.parse(answer({ parallel_tool_calls: false }, toolCallEvents))).toMatchObject(message([first]));
  });

  test("has finite log probabilities with bytes and rivals", () => {
    const token = { token: "é", tokenBytes: new Uint8Array([0xc3, 0xa9]), tokenId: 4, logprob: -0.5 };
    const rival = { token: "e", tokenBytes: new Uint8Array([0x65]), tokenId: 5, logprob: Number.NEGATIVE_INFINITY };
    const delta: ScriptedEvent = {
      case: "delta",
      value: { text: "é", tokenIds: [4], logprobs: [{ ...token, top: [token, rival] }] },
    };
    const body = JSON.parse(answer({ logprobs: true, top_logprobs: 2 }, [started, delta, finished])) as object;
    const shown = { token: "é", logprob: -0.5, bytes: [0xc3, 0xa9] };
    const top_logprobs = [shown, { token: "e", logprob: -9999, bytes: [0x65] }];
    expect(body).toMatchObject({ choices: [{ logprobs: { content: [{ ...shown, top_logprobs }], refusal: null } }] });
  });
});

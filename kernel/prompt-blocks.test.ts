import { create, type MessageInitShape } from "@bufbuild/protobuf";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  type GenerateRequest,
  GenerateRequestSchema,
  Role,
  ToolChoice_Mode,
} from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { defaultBlockBytes, promptBlocks } from "./prompt-blocks.ts";

type Input = NonNullable<Exclude<MessageInitShape<typeof GenerateRequestSchema>, GenerateRequest>["input"]>;
type Chat = Extract<Input, { case: "chat" }>["value"];

function request(input: Input, model = "pocket"): GenerateRequest {
  return create(GenerateRequestSchema, { model, input });
}
const prompt = (value: string, model?: string) => request({ case: "prompt", value }, model);
const chat = (value: Chat) => request({ case: "chat", value });
const blocks = (value: GenerateRequest, blockBytes = 16, maxBlocks = 4_096) => [
  ...promptBlocks(value, blockBytes, maxBlocks),
];

const weather = {
  name: "get_weather",
  description: "The weather of a city.",
  parametersJson: '{"type":"object","properties":{"city":{"type":"string"}}}',
};
const turns = [
  { role: Role.SYSTEM, content: "You are brief and exact, and you answer in one sentence." },
  { role: Role.USER, name: "ada", content: "žluťoučký kůň, 日本 and 😀😀😀: how is the weather in Oslo?" },
  {
    role: Role.ASSISTANT,
    toolCalls: [{ id: "call_1", name: "get_weather", argumentsJson: '{"city":"Oslo","day":12345678901234567890}' }],
  },
  { role: Role.TOOL, toolCallId: "call_1", content: "4 degrees and rain" },
  { role: Role.ASSISTANT, content: "It rains in Oslo at 4 degrees." },
  { role: Role.USER, content: "And in Rome?" },
];

describe("promptBlocks", () => {
  // Routers and agents of different versions meet: a change here makes every prefix unknown to the other side.
  test.each([
    ["a prompt", prompt("The quick brown fox jumps over the lazy dog."), [1398761975]],
    ["a chat", chat({ messages: turns.slice(0, 2) }), [3799273264, 2803457835, 354498708, 1325843897]],
    [
      "a chat with tools",
      chat({ messages: turns.slice(0, 1), tools: [weather] }),
      [1432021061, 3169524076, 2275829826, 3079931550],
    ],
    ["token ids", request({ case: "tokens", value: { ids: [1, 70_000, 4_294_967_295, 3, 4, 5, 6, 7] } }), [1477365077]],
  ])("is what it always was for %s", (_name, value, hashes) => {
    expect(blocks(value, 32)).toEqual(hashes);
  });

  test("is MurmurHash3 of each block, seeded with the hash before it", () => {
    expect(murmur3(Buffer.from("Hello, world!"), 0)).toBe(0xc0363e43);
    expect(blocks(prompt("", ""), 1)).toEqual([murmur3([1], 0), murmur3([6], murmur3([1], 0))]);
    const bytes = [1, 6, ...Buffer.from("Hello, world")];
    expect(blocks(prompt("Hello, world", ""), 7)).toEqual([
      murmur3(bytes.slice(0, 7), 0),
      murmur3(bytes.slice(7), murmur3(bytes.slice(0, 7), 0)),
    ]);
  });

  test("keeps the blocks of the turns before as a conversation grows", () => {
    let before: number[] = [];
    for (let count = 1; count <= turns.length; count++) {
      const now = blocks(chat({ messages: turns.slice(0, count), tools: [weather] }));
      expect(now.slice(0, before.length)).toEqual(before);
      expect(now.length).toBeGreaterThan(before.length);
      before = now;
    }
  });

  test("keeps the blocks of a text that grows, cut anywhere", () => {
    fc.assert(
      fc.property(fc.string({ unit: "grapheme", maxLength: 200 }), fc.string({ unit: "grapheme" }), (head, tail) => {
        const before = blocks(prompt(head));
        expect(blocks(prompt(head + tail)).slice(0, before.length)).toEqual(before);
        expect(before).toHaveLength(Math.floor((8 + Buffer.byteLength(head)) / 16));
      }),
    );
  });

  test("differs from the first block on by model, tools and kind of input", () => {
    const text = "x".repeat(64);
    const firsts = [
      prompt(text),
      prompt(text, "other"),
      request({ case: "tokens", value: { ids: Array.from({ length: 16 }, () => 0x78787878) } }),
      chat({ messages: [{ role: Role.USER, content: text }] }),
      chat({ messages: [{ role: Role.SYSTEM, content: text }] }),
      chat({ messages: [{ role: Role.USER, content: text }], tools: [weather] }),
      chat({ messages: [{ role: Role.USER, content: text, name: "x" }] }),
    ].map((value) => blocks(value)[0]);
    expect(new Set(firsts).size).toBe(firsts.length);
  });

  test("leaves out tools that may not be called, as engines do", () => {
    const messages = turns.slice(0, 2);
    const toolChoice = { mode: ToolChoice_Mode.NONE };
    expect(blocks(chat({ messages, tools: [weather], toolChoice }))).toEqual(blocks(chat({ messages })));
  });

  test("changes in every block behind a change, and in none before it", () => {
    const text = "a".repeat(160);
    const plain = blocks(prompt(text));
    const changed = blocks(prompt(`${text.slice(0, 60)}b${text.slice(61)}`));
    expect(plain).toHaveLength(10);
    expect(changed.slice(0, 4)).toEqual(plain.slice(0, 4));
    expect(changed.slice(4).filter((hash) => plain.includes(hash))).toEqual([]);
  });

  test("gives the same hashes however large the text is, up to as many as are wanted", () => {
    const large = "🦊 jumps over the lazy dog. ".repeat(9_000);
    const all = blocks(prompt(large), defaultBlockBytes);
    expect(all).toHaveLength(Math.floor((8 + Buffer.byteLength(large)) / defaultBlockBytes));
    expect(blocks(prompt(large), defaultBlockBytes, 70)).toEqual(all.slice(0, 70));
    // The chain, computed over one buffer.
    const bytes = Buffer.concat([Buffer.from("\u0001pocket\u0006"), Buffer.from(large)]);
    let hash = 0;
    const chain = all.map((_, at) => (hash = murmur3(bytes.subarray(at * 256, (at + 1) * 256), hash)));
    expect(all).toEqual(chain);
    const ids = Array.from({ length: 40_000 }, (_, index) => index * 100_003);
    const tokens = blocks(request({ case: "tokens", value: { ids } }), defaultBlockBytes);
    expect(tokens).toHaveLength(Math.floor((8 + 160_000) / defaultBlockBytes));
  });

  test("has no block for a prompt shorter than one", () => {
    expect(blocks(prompt("Hi."), defaultBlockBytes)).toEqual([]);
    expect(blocks(create(GenerateRequestSchema, {}), defaultBlockBytes)).toEqual([]);
  });
});

/** A second, plain implementation. */
function murmur3(bytes: ArrayLike<number>, seed: number): number {
  const rotate = (value: bigint, by: bigint) => ((value << by) | (value >> (32n - by))) & 0xffffffffn;
  const times = (value: bigint, factor: bigint) => (value * factor) & 0xffffffffn;
  const scramble = (word: bigint) => times(rotate(times(word, 0xcc9e2d51n), 15n), 0x1b873593n);
  let state = BigInt(seed);
  const whole = bytes.length - (bytes.length % 4);
  const word = (from: number, to: number) => {
    let value = 0n;
    for (let at = from; at < to; at++) value |= BigInt(bytes[at] ?? 0) << BigInt(8 * (at - from));
    return value;
  };
  for (let at = 0; at < whole; at += 4) {
    state = (times(rotate(state ^ scramble(word(at, at + 4)), 13n), 5n) + 0xe6546b64n) & 0xffffffffn;
  }
  state ^= scramble(word(whole, bytes.length)) ^ BigInt(bytes.length);
  state = times(state ^ (state >> 16n), 0x85ebca6bn);
  state = times(state ^ (state >> 13n), 0xc2b2ae35n);
  return Number(state ^ (state >> 16n));
}

import { create } from "@bufbuild/protobuf";
import { describe, expect, test } from "vitest";
import { GenerateRequestSchema } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { promptBlocks } from "#kernel/prompt-blocks.ts";
import { LanePrefixes } from "./lane-prefixes.ts";

const prompt = (value: string) => create(GenerateRequestSchema, { model: "m", input: { case: "prompt", value } });
const hashes = (...values: number[]) => Uint32Array.from(values);

describe("LanePrefixes", () => {
  test("tells a prefix once, however many lanes hold it, until the last one forgets it", () => {
    const prefixes = new LanePrefixes(3, { blockBytes: 16, maxBlocks: 30 });
    prefixes.set(0, hashes(1, 2, 3), 9, 9);
    prefixes.set(1, hashes(1, 2, 4), 9, 9);
    expect(prefixes.take()).toEqual({ added: [1, 2, 3, 4], removed: [], cut: 0 });
    prefixes.set(0, hashes(1, 5), 9, 9);
    expect(prefixes.take()).toEqual({ added: [5], removed: [3], cut: 0 });
    prefixes.set(1, hashes(), 0, 1);
    expect(prefixes.take()).toEqual({ added: [], removed: [2, 4], cut: 0 });
    expect(prefixes.take()).toBeUndefined();
  });

  test("says nothing of what came and went between two readings", () => {
    const prefixes = new LanePrefixes(1, { blockBytes: 16, maxBlocks: 30 });
    prefixes.set(0, hashes(1, 2), 9, 9);
    prefixes.set(0, hashes(1), 9, 9);
    expect(prefixes.take()).toEqual({ added: [1], removed: [], cut: 0 });
    prefixes.set(0, hashes(7), 9, 9);
    prefixes.set(0, hashes(1), 9, 9);
    expect(prefixes.take()).toBeUndefined();
  });

  test("counts blocks in proportion while a prompt is not all there", () => {
    const prefixes = new LanePrefixes(1, { blockBytes: 16, maxBlocks: 30 });
    prefixes.set(0, hashes(1, 2, 3, 4), 70, 100);
    expect(prefixes.take()?.added).toEqual([1, 2]);
  });

  test("keeps each lane to its share, and says that a prompt was cut", () => {
    const prefixes = new LanePrefixes(4, { blockBytes: 16, maxBlocks: 15 });
    const long = prompt("a b c d ".repeat(20));
    expect(prefixes.blocks(long)).toEqual(promptBlocks(long, 16, 3));
    expect(prefixes.blocks(prompt("a b c d e f g h i j"))).toHaveLength(1);
    expect(prefixes.take()).toEqual({ added: [], removed: [], cut: 1 });
  });
});

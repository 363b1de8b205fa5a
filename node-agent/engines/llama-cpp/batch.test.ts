import { describe, expect, test } from "vitest";
import { type BatchLane, exactBlockTokens, nextBatch } from "./batch.ts";

/** A lane with a prompt of `prompt` tokens, all tokens known `length`, and `evaluated` of them. */
function lane(index: number, prompt: number, length: number, evaluated: number, exact = false): BatchLane {
  const plan = { exact, promptTokens: new Uint32Array(prompt) };
  return { index, length, evaluated, isFull: false, sequence: { plan } };
}
const free = (index: number, isFull = false): BatchLane => ({
  index,
  length: 0,
  evaluated: 0,
  isFull,
  sequence: undefined,
});

function batchOf(lanes: readonly BatchLane[], afterBlock = false, batchTokens = 100) {
  const { parts, padding, prefillTokens, exactBlock } = nextBatch(lanes, batchTokens, afterBlock);
  return {
    parts: parts.map((part) => [part.lane.index, part.count]),
    padding: padding.map(({ index }) => index),
    prefillTokens,
    exactBlock,
  };
}

describe("nextBatch", () => {
  test("takes a token of each running sequence, and prompts in what room is left", () => {
    const lanes = [lane(0, 5, 9, 8), lane(1, 70, 70, 0), free(2), lane(3, 60, 60, 0), lane(4, 4, 4, 3)];
    expect(batchOf(lanes)).toEqual({
      parts: [
        [0, 1],
        [1, 70],
        [3, 28],
        [4, 1],
      ],
      padding: [],
      prefillTokens: 98,
      exactBlock: false,
    });
  });

  test("takes the prompt of an exact sequence in blocks of its own, the last as short as it is", () => {
    const at = (evaluated: number) => batchOf([lane(0, 3, 8, 7), lane(1, 150, 150, evaluated, true)]);
    expect(at(0)).toEqual({
      parts: [[1, exactBlockTokens]],
      padding: [],
      prefillTokens: exactBlockTokens,
      exactBlock: true,
    });
    expect(at(64).parts).toEqual([[1, 64]]);
    expect(at(128).parts).toEqual([[1, 22]]);
  });

  test("lets the others have every other step", () => {
    const lanes = [lane(0, 3, 8, 7), lane(1, 150, 150, 64, true)];
    expect(batchOf(lanes, true).parts).toEqual([[0, 1]]);
    expect(batchOf(lanes.slice(1), true).parts).toEqual([[1, 64]]);
  });

  test("takes what another engine generated one by one behind an exact prompt", () => {
    expect(batchOf([lane(0, 70, 90, 64, true), free(1)]).parts).toEqual([[0, 6]]);
    expect(batchOf([lane(0, 70, 90, 70, true), free(1)]).parts).toEqual([[0, 1]]);
    expect(batchOf([lane(0, 70, 90, 70)]).parts).toEqual([[0, 20]]);
  });

  test.each([
    ["alone", [free(0), lane(1, 5, 9, 8, true), free(2)], [2]],
    ["in the last lane", [free(0), free(1), lane(2, 5, 9, 8, true)], [1]],
    ["beside a lane that is full", [free(0), lane(1, 5, 9, 8, true), free(2, true)], [0]],
    ["beside a lane that takes part", [lane(0, 5, 9, 8, true), lane(1, 5, 9, 8)], []],
    ["with a gap to the next", [lane(0, 5, 9, 8, true), free(1), lane(2, 5, 9, 8, true)], [1]],
    ["without a second lane", [lane(0, 5, 9, 8, true)], []],
    ["not exact", [lane(0, 5, 9, 8), free(1)], []],
  ])("pads a single token of an exact sequence %s", (_where, lanes, padding) => {
    expect(batchOf(lanes).padding).toEqual(padding);
  });
});

import { expect, test } from "vitest";
import type { AddonModel } from "./native.ts";
import { Vocabulary } from "./vocabulary.ts";

const pieces = ["<unk>", "<s>", "<", "s>", "a", "b"];

/** Like Llama 2's: SentencePiece merges "<" and "s>" to the control token even where none are wanted. */
const addon: AddonModel = {
  tokenize: (text) => Uint32Array.from(text.match(/<s>|s>|[<ab]/g) ?? [], (piece) => pieces.indexOf(piece)),
  detokenize: () => "",
  tokenBos: () => 1,
  getTokenString: (token) => pieces[token],
  getTokenAttributes: (token) => [1, 8][token] ?? 4,
  isEogToken: () => false,
  getVocabularyType: () => 1,
  shouldPrependBosToken: () => true,
  getEmbeddingVectorSize: () => 1,
  getTrainContextSize: () => 1,
};
const vocabulary = new Vocabulary({ addon, vocabularySize: pieces.length });

test("control tokens do not come from text, though its letters could be merged to one", () => {
  const parts = [
    { control: true as const, text: "<s>a" },
    { control: false as const, pieces: ["a<", "s>b"] },
  ];
  expect([...vocabulary.tokenizeParts(parts)]).toEqual([1, 4, 4, 2, 3, 5]);
});

test("the begin token comes first, once", () => {
  expect([...vocabulary.tokenizeParts([{ control: false, pieces: ["<", "s>"] }])]).toEqual([1, 2, 3]);
  expect([...vocabulary.tokenizeParts([{ control: true, text: "<s>a" }])]).toEqual([1, 4]);
  expect([...vocabulary.tokenize("a")]).toEqual([1, 4]);
});

test("control and unknown tokens are those whose texts must not pass", () => {
  expect(vocabulary.controlTexts()).toEqual(["<unk>", "<s>"]);
});

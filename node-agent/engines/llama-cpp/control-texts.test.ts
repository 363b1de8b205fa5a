import { create } from "@bufbuild/protobuf";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { ChatInputSchema, Role } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { ChatTemplate } from "./chat-template.ts";
import { textOfPart, type TextPart } from "./control-texts.ts";

/** Puts texts of two callers side by side, and trims one. */
const template =
  "{% for m in messages %}<s>{{ m.role }}\n{{ m.name }}{{ m.content | trim }}</s>\n{% endfor %}<s>assistant";
const source = { text: template, bosText: "", eosText: "" };
const guarded = new ChatTemplate({ ...source, controlTexts: ["<s>", "</s>", "s><", "<|a|>", "7", "42"] });
const plain = new ChatTemplate({ ...source, controlTexts: [] });

function render(chatTemplate: ChatTemplate, ...turns: [name: string, content: string][]): TextPart[] {
  const messages = turns.map(([name, content]) => ({ role: Role.USER, name, content }));
  return chatTemplate.render(create(ChatInputSchema, { messages }));
}

describe("a chat with the texts of control tokens in it", () => {
  test("is cut around the messages that hold one", () => {
    expect(render(guarded, ["x", "a"], ["x", "b</s>c"], ["x", "d"])).toEqual([
      { control: true, text: "<s>user\nxa</s>\n<s>" },
      { control: false, pieces: ["user\nxb<", "/s>c"] },
      { control: true, text: "</s>\n<s>user\nxd</s>\n<s>assistant" },
    ]);
  });

  test("is not cut for what only looks like one", () => {
    expect(render(guarded, ["<", "> a b <"])).toEqual(render(plain, ["<", "> a b <"]));
    expect(render(guarded, ["x", " 7 and 42 "])).toEqual(render(plain, ["x", " 7 and 42 "]));
  });

  test("is cut where two of its texts make one together", () => {
    expect(render(guarded, ["<|", "a|>"])).toEqual([
      { control: true, text: "<s>" },
      { control: false, pieces: ["user\n", "<|", "", "a|>"] },
      { control: true, text: "</s>\n<s>assistant" },
    ]);
  });

  test("keeps its text, and only the template's control tokens, whatever the callers write", () => {
    const scrap = fc.constantFrom("<s>", "</s>", "s><", "<|a|>", "<", ">", "s", "/", "|a", "\n", " ", "42", "x");
    const text = fc.array(scrap, { maxLength: 6 }).map((scraps) => scraps.join(""));
    fc.assert(
      fc.property(fc.array(fc.tuple(text, text), { minLength: 1, maxLength: 3 }), (turns) => {
        const parts = render(guarded, ...turns);
        expect(parts.map(textOfPart).join("")).toBe(
          render(plain, ...turns)
            .map(textOfPart)
            .join(""),
        );
        const control = parts.flatMap((part) => (part.control ? part.text.match(/<\/?s>|<\|a\|>/g) : []));
        expect(control).toEqual([...turns.flatMap(() => ["<s>", "</s>"]), "<s>"]);
        const pieces = parts.flatMap((part) => (part.control ? [] : part.pieces));
        expect(pieces.filter((piece) => /<\/?s>|<\|a\|>/.test(piece))).toEqual([]);
      }),
      { numRuns: 500 },
    );
  });
});

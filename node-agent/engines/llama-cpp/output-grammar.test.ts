import { create } from "@bufbuild/protobuf";
import fc from "fast-check";
import { getLlama, type Llama } from "node-llama-cpp";
import { afterAll, beforeAll, expect, test } from "vitest";
import { GenerateRequestSchema } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { outputGrammar } from "./output-grammar.ts";

let llama: Llama;
let admits: (text: string) => boolean;
beforeAll(async () => {
  llama = await getLlama({ build: "never", gpu: false, skipDownload: true, progressLogs: false });
  const properties = '{"city": {"enum": ["Oslo"]}}';
  const tools = [
    {
      name: "strict",
      strict: true,
      parametersJson: `{"type": "object", "properties": ${properties}, "required": ["city"]}`,
    },
    { name: "free", parametersJson: '{"type": "object", "patternProperties": {}}' },
  ];
  const request = create(GenerateRequestSchema, { input: { case: "chat", value: { tools } } });
  const grammar = await llama.createGrammar({ grammar: outputGrammar(request)?.text ?? "" });
  const matches: unknown = Reflect.get(grammar, "_testText");
  if (typeof matches !== "function") throw new Error("node-llama-cpp's LlamaGrammar has no _testText any more");
  admits = (text) => matches.call(grammar, text) === true;
});
afterAll(() => llama.dispose());

const oslo = '<tool_call>{"name": "strict", "arguments": {"city": "Oslo"}}</tool_call>';

test.each([
  "Hello.",
  "a < b, <b>bold</b>, <tool_cal <<tool_call <tool_calls>\n",
  oslo,
  `I look.\n${oslo}${oslo} Done < `,
  '<<tool_call>\n{"name": "free", "arguments": {"any": [1, {"thing": null}]}}\n</tool_call>',
])("strict tools admit %j", (text) => {
  expect(admits(text)).toBe(true);
});

test.each([
  "<tool_call>",
  "<tool_call>{}</tool_call>",
  "a<<tool_call> b",
  oslo.replace("Oslo", "Rome"),
  oslo.replace("strict", "unknown"),
  oslo.replace("}}", ', "country": "no"}}'),
  '<tool_call>{"name": "free", "arguments": [1]}</tool_call>',
  oslo.slice(0, -1),
  `${oslo}<tool_call>x`,
])("strict tools refuse %j", (text) => {
  expect(admits(text)).toBe(false);
});

test("strict tools leave every text without the tag free", () => {
  const scrap = fc.constantFrom("<", "<tool", "_call", "tool_call", ">", "x", "<tool_call", "é");
  fc.assert(
    fc.property(fc.array(scrap, { maxLength: 8 }), (scraps) => {
      const text = scraps.join("");
      expect(admits(text)).toBe(!text.includes("<tool_call>"));
    }),
    { numRuns: 200 },
  );
});

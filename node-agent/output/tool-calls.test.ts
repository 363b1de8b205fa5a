import { describe, expect, test } from "vitest";
import { ToolCallParser } from "./tool-calls.ts";

interface Outcome {
  readonly text: string;
  readonly calls: readonly (readonly [index: number, id: string, name: string, argumentsJson: string])[];
}

function parse(pieces: readonly string[], maxCallLength?: number): Outcome {
  let ids = 0;
  const parser = new ToolCallParser({
    tools: new Set(["get_weather", "now"]),
    newId: () => `id${ids++}`,
    ...(maxCallLength !== undefined && { maxCallLength }),
  });
  let text = "";
  const calls: (readonly [number, string, string, string])[] = [];
  for (const piece of pieces) {
    const parsed = parser.push(piece);
    text += parsed.text;
    for (const call of parsed.toolCalls) calls.push([call.index, call.id, call.name, call.argumentsJson]);
  }
  return { text: text + parser.end(), calls };
}

const weather = '<tool_call>{"name": "get_weather", "arguments": {"city": "Os\\"lo", "n": [1, {}]}}</tool_call>';
const weatherCall = [0, "id0", "get_weather", '{"city": "Os\\"lo", "n": [1, {}]}'] as const;

const cases: readonly { readonly name: string; readonly input: string; readonly outcome: Outcome }[] = [
  { name: "plain text", input: "Hello <b>you</b> <", outcome: { text: "Hello <b>you</b> <", calls: [] } },
  { name: "one call", input: weather, outcome: { text: "", calls: [weatherCall] } },
  {
    name: "text around a call",
    input: `I look. ${weather} Done.`,
    outcome: { text: "I look.  Done.", calls: [weatherCall] },
  },
  {
    name: "two calls with white space around",
    input: `\n${weather}\n<tool_call>{"name":"now"}</tool_call>\n`,
    outcome: { text: "", calls: [weatherCall, [1, "id1", "now", "{}"]] },
  },
  { name: "white space alone", input: " \n ", outcome: { text: " \n ", calls: [] } },
  {
    name: "broken JSON",
    input: '<tool_call>{"name": }</tool_call>!',
    outcome: { text: '<tool_call>{"name": }</tool_call>!', calls: [] },
  },
  {
    name: "a tool that the request does not offer",
    input: '<tool_call>{"name":"rm","arguments":{}}</tool_call>',
    outcome: { text: '<tool_call>{"name":"rm","arguments":{}}</tool_call>', calls: [] },
  },
  {
    name: "arguments that are no object",
    input: '<tool_call>{"name":"now","arguments":[1]}</tool_call>',
    outcome: { text: '<tool_call>{"name":"now","arguments":[1]}</tool_call>', calls: [] },
  },
  {
    name: "a closing tag inside an argument",
    input: '<tool_call>{"name":"now","arguments":{"a":"\\"</tool_call>"}}</tool_call>.',
    outcome: { text: ".", calls: [[0, "id0", "now", '{"a":"\\"</tool_call>"}']] },
  },
  {
    name: "a call that never closes",
    input: '<tool_call>{"name":"now"',
    outcome: { text: '<tool_call>{"name":"now"', calls: [] },
  },
  {
    name: "arguments as they were written",
    input:
      '<tool_call>{ "arguments" : { "id": 12345678901234567890, "x": 1.10, "arguments": {"}": "]"} } , "name":"now"}</tool_call>',
    outcome: {
      text: "",
      calls: [[0, "id0", "now", '{ "id": 12345678901234567890, "x": 1.10, "arguments": {"}": "]"} }']],
    },
  },
  {
    name: "the last of several arguments",
    input: '<tool_call>{"name":"now","arguments":{},"\\u0061rguments":{"a":"\\\\"}}</tool_call>',
    outcome: { text: "", calls: [[0, "id0", "now", '{"a":"\\\\"}']] },
  },
  {
    name: "arguments that are null",
    input: '<tool_call>{"name":"now","arguments":null}</tool_call>',
    outcome: { text: "", calls: [[0, "id0", "now", "{}"]] },
  },
  { name: "half an open tag", input: "a <tool_", outcome: { text: "a <tool_", calls: [] } },
  {
    name: "a good call behind a broken one",
    input: `<tool_call>x</tool_call>${weather}`,
    outcome: { text: "<tool_call>x</tool_call>", calls: [weatherCall] },
  },
];

describe("ToolCallParser", () => {
  test.each(cases)("reads $name the same at every split point", ({ input, outcome }) => {
    expect(parse([input])).toEqual(outcome);
    expect(parse(input.split(""))).toEqual(outcome);
    for (let at = 1; at < input.length; at++) {
      expect(parse([input.slice(0, at), input.slice(at)])).toEqual(outcome);
    }
  });

  test("sends text on at once while it cannot be a tag", () => {
    const parser = new ToolCallParser({ tools: new Set(["now"]), newId: () => "id" });
    expect(parser.push("Hello <tool").text).toBe("Hello ");
    expect(parser.push("box>").text).toBe("<toolbox>");
  });

  test("gives up on a call that is longer than the limit", () => {
    const input = `<tool_call>${"x".repeat(50)}</tool_call> <tool_call>{"name":"now"}</tool_call>`;
    const outcome = parse(input.split(""), 20);
    expect(outcome.text).toBe(`<tool_call>${"x".repeat(50)}</tool_call> `);
    expect(outcome.calls).toEqual([[0, "id0", "now", "{}"]]);
  });
});

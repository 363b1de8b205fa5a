import fc from "fast-check";
import { getLlama, type Llama } from "node-llama-cpp";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { GrammarText } from "./grammar-text.ts";
import { integerBetween } from "./integer-range.ts";
import { addJsonSchema } from "./json-schema.ts";

let llama: Llama;
beforeAll(async () => {
  llama = await getLlama({ build: "never", gpu: false, skipDownload: true, progressLogs: false });
});
afterAll(() => llama.dispose());

/** Which of the texts llama.cpp's own parser lets through. */
async function admitted(root: string, texts: readonly string[]): Promise<string[]> {
  const grammar = await llama.createGrammar({ grammar: root });
  const compatible: unknown = Reflect.get(grammar, "_testText");
  if (typeof compatible !== "function") throw new Error("node-llama-cpp's LlamaGrammar has no _testText any more");
  return texts.filter((text) => compatible.call(grammar, text) === true);
}

function bySchema(schema: unknown): string {
  const grammar = new GrammarText();
  return grammar.toString(addJsonSchema(grammar, JSON.stringify(schema), "f"));
}

function refusal(schema: string): MeshError {
  try {
    addJsonSchema(new GrammarText(), schema, "f");
  } catch (error) {
    return MeshError.from(error);
  }
  throw new Error("was not refused");
}

describe("a JSON schema's grammar", () => {
  test.each([
    ["any value", true, ['{"a": [1, "x", null]}', "-0.5e3", "true"], ["01", "{a: 1}", "'x'", ""]],
    ["strings with escapes", { type: "string" }, ['"a\\n\\u00e9\\"ž"', '""'], ['"a\n"', "a", '"\\x"']],
    ["string lengths", { type: "string", minLength: 2, maxLength: 3 }, ['"ab"', '"abc"'], ['"a"', '"abcd"']],
    ["dates", { type: "string", format: "date" }, ['"2024-03-31"', '"2024-02-28"'], ['"2024-02-30"', '"2024-13-01"']],
    ["several types", { type: ["integer", "null"] }, ["7", "null", "-12"], ["1.5", '"7"']],
    ["enum", { enum: ["a", 1, null, { x: [1, 2] }] }, ['"a"', "1", "null", '{"x": [1, 2]}'], ['"b"', "2"]],
    ["const", { const: 'say "hi"\n' }, ['"say \\"hi\\"\\n"'], ['"say"']],
    ["anyOf", { anyOf: [{ type: "boolean" }, { type: "number", minimum: 0 }] }, ["true", "0.5"], ["-1", "null"]],
    [
      "lists",
      { type: "array", items: { type: "integer" }, minItems: 1, maxItems: 3 },
      ["[1]", "[1, 2,3]"],
      ["[]", "[1,2,3,4]", '["a"]'],
    ],
    [
      "tuples",
      { type: "array", prefixItems: [{ type: "integer" }, { type: "string" }] },
      ['[1, "a"]'],
      ["[1]", '["a", 1]'],
    ],
    ["empty objects", { type: "object", additionalProperties: false }, ["{}"], ['{"a": 1}']],
    ["maps", { type: "object", additionalProperties: { type: "integer" } }, ["{}", '{"a": 1, "b": 2}'], ['{"a": "x"}']],
    [
      "objects with optional properties",
      {
        type: "object",
        properties: { a: { type: "integer" }, b: { type: "integer" }, c: { type: "integer" } },
        required: ["b"],
      },
      ['{"a": 1, "b": 2, "c": 3}', '{"b": 2}', '{"b":2,"c":3}', '{\n  "a": 1,\n  "b": 2\n}'],
      ["{}", '{"a": 1}', '{"b": 2,}', '{, "b": 2}', '{"b": 2, "d": 1}'],
    ],
    [
      "references, also to itself",
      {
        $ref: "#/$defs/tree",
        $defs: {
          tree: {
            type: "object",
            properties: { kids: { type: "array", items: { $ref: "#/$defs/tree" } } },
            required: ["kids"],
          },
        },
      },
      ['{"kids": []}', '{"kids": [{"kids": []}, {"kids": []}]}'],
      ['{"kids": [1]}', "{}"],
    ],
  ])("admits valid texts only: %s", async (_, schema, valid, invalid) => {
    expect(await admitted(bySchema(schema), [...valid, ...invalid])).toEqual(valid);
  });

  test.each([
    [{ type: "string", pattern: "^a$" }, "pattern"],
    [{ type: "string", format: "hostname" }, "hostname"],
    [{ type: "object", patternProperties: {} }, "patternProperties"],
    [{ type: "array", uniqueItems: true }, "uniqueItems"],
    [{ properties: { a: { not: {} } } }, "#/properties/a"],
    [{ allOf: [{ type: "object" }, { type: "object" }] }, "allOf"],
    [{ $ref: "https://example.com/schema" }, "example.com"],
  ])("refuses by name what it cannot enforce: %j", (schema, named) => {
    const error = refusal(JSON.stringify(schema));
    expect({ reason: error.reason, field: error.field }).toEqual({ reason: Reason.UNSUPPORTED_PARAMETER, field: "f" });
    expect(error.message).toContain(named);
  });

  test.each([
    "",
    "7",
    '{"type": "strin"}',
    '{"enum": []}',
    '{"$ref": "#/$defs/none"}',
    '{"type": "array", "minItems": 2, "maxItems": 1}',
  ])("refuses what is no schema: %s", (schema) => {
    expect(refusal(schema).reason).toBe(Reason.INVALID_REQUEST);
  });
});

test("an integer range admits exactly its integers", async () => {
  const bound = fc.option(fc.integer({ min: -1_200, max: 1_200 }), { nil: undefined });
  await fc.assert(
    fc.asyncProperty(
      bound,
      bound,
      fc.array(fc.integer({ min: -1_300, max: 1_300 }), { minLength: 5 }),
      async (a, b, numbers) => {
        const [low, high] = a !== undefined && b !== undefined && a > b ? [b, a] : [a, b];
        const near = [low ?? 0, high ?? 0].flatMap((edge) => [edge - 1, edge, edge + 1]);
        const texts = [...new Set([...numbers, ...near])].map(String);
        const range = integerBetween(
          low === undefined ? undefined : BigInt(low),
          high === undefined ? undefined : BigInt(high),
        );
        const inside = texts.filter((text) => Number(text) >= (low ?? -Infinity) && Number(text) <= (high ?? Infinity));
        expect(await admitted(`root ::= ${range}`, texts)).toEqual(inside);
      },
    ),
    { numRuns: 60 },
  );
});

test("an empty integer range is none", () => {
  expect(integerBetween(5n, 4n)).toBeUndefined();
});

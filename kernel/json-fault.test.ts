import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { findJsonFault } from "#kernel/json-fault.ts";

function parses(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

describe("findJsonFault", () => {
  test.each([
    ["", 0, "a value"],
    ["{", 1, "a key in double quotes or '}'"],
    ['{"a": asd}', 6, "a value"],
    ['{"a": 1 "b": 2}', 8, "',' or '}'"],
    ['{"a": 1,}', 8, "a key in double quotes"],
    ["[1,]", 3, "a value"],
    ["{} x", 3, "the end of the body"],
    ['{"a', 3, "the closing double quote of a string"],
    ['"\\u12g4"', 5, "four hex digits after \\u"],
    ["{'a': 1}", 1, "a key in double quotes or '}'"],
    ["[1}", 2, "',' or ']'"],
    ["01", 1, "the end of the body"],
  ])("finds the fault in %s", (text, offset, expected) => {
    expect(findJsonFault(text)).toEqual({ offset, expected });
  });

  test("finds none in what JSON.parse accepts and one in what it refuses", () => {
    const edited = fc
      .tuple(fc.json(), fc.nat(40), fc.constantFrom("", "{", "]", '"', ",", ":", "\\", "0", "x", "\n", "-", "."))
      .map(([text, at, insert]) => text.slice(0, at) + insert + text.slice(at + 1));
    fc.assert(
      fc.property(fc.oneof(fc.json(), edited, fc.string()), (text) => {
        expect(findJsonFault(text) === undefined).toBe(parses(text));
      }),
      { numRuns: 2_000 },
    );
  });

  test("reads deep nesting without recursion", () => {
    expect(findJsonFault("[".repeat(1_000_000))).toEqual({ offset: 1_000_000, expected: "a value or ']'" });
  });
});

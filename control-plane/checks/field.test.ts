import { expect, test } from "vitest";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { checkCount, checkMap, checkPresent, checkRange, checkText, quote } from "./field.ts";

const map = { entries: 1, keyLength: 3, valueLength: 3 };

test.each([
  ["is missing", () => checkPresent("f", undefined), ""],
  ["must not be empty", () => checkText("f", "", { min: 1, max: 3 }), ""],
  ["has 4 characters; at most 3", () => checkText("f", "abcd", { max: 3 }), "3 characters"],
  ["contains a zero character", () => checkText("f", "a\0", { max: 3 }), ""],
  ['is "A"; it takes a-z', () => checkText("f", "A", { max: 3, pattern: /^[a-z]$/, allowed: "a-z" }), ""],
  ["is 4; at most 3 tokens", () => checkRange("f", 4, 3, "tokens"), "3 tokens"],
  ["has 2 entries; at most 1", () => checkCount("f", [1, 2], 1), "1 entries"],
  ["has 2 entries; at most 1", () => checkMap("f", { a: "", b: "" }, map), "1 entries"],
])("a fault says: f %s", (words, check, limit) => {
  expect(check).toThrow(
    expect.objectContaining({ reason: Reason.INVALID_REQUEST, field: "f", limit, message: `f ${words}` }),
  );
});

test("a fault in a map names the key", () => {
  expect(() => checkMap("f", { long: "" }, map)).toThrow("a key of f has 4 characters; at most 3");
  expect(() => checkMap("f", { a: "long" }, map)).toThrow('f["a"] has 4 characters; at most 3');
});

test("what is right comes back", () => {
  expect(checkText("f", "abc", { min: 1, max: 3 })).toBe("abc");
  expect(checkRange("f", 3n, 3)).toBe(3);
  expect(checkMap("f", { a: "b" }, map)).toEqual({ a: "b" });
});

test("a quoted value never brings a long text back", () => {
  expect(quote("x".repeat(10_000)).length).toBeLessThan(100);
});

import { describe, expect, test } from "vitest";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { parseJson } from "#kernel/json-body.ts";

const parse = (text: string): unknown => parseJson(Buffer.from(text));

describe("parseJson", () => {
  test("takes JSON with a byte order mark, and the last of duplicate keys", () => {
    expect(parse('\ufeff{"a": 1, "a": 2}')).toEqual({ a: 2 });
  });

  test("leaves prototypes alone", () => {
    const value = parse('{"__proto__": {"polluted": true}}') as object;
    expect("polluted" in value).toBe(false);
    expect("polluted" in {}).toBe(false);
  });

  test.each([
    ["", "empty"],
    ['{"a":\n asd}', 'found character "a" at line 2 column 2 (offset 7), expected a value'],
    ['{"a": 1', "found the end of the body at line 1 column 8 (offset 7), expected ',' or '}'"],
    ["[".repeat(129), "nests deeper than 128 levels at line 1 column 129"],
    ['{"a":'.repeat(200_000), "nests deeper than 128 levels"],
  ])("refuses %j", (text, message) => {
    expect(() => parse(text)).toThrow(expect.objectContaining({ reason: Reason.INVALID_REQUEST }));
    expect(() => parse(text)).toThrow(message);
  });

  test("counts no brackets inside strings", () => {
    const text = JSON.stringify(`\\"${"[".repeat(500)}\\`);
    expect(parse(text)).toBe(JSON.parse(text));
  });

  test("refuses what is not UTF-8", () => {
    expect(() => parseJson(Buffer.from([0x22, 0xff, 0x22]))).toThrow("not valid UTF-8");
  });
});

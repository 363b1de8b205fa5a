import fc from "fast-check";
import { expect, test } from "vitest";
import { Utf8Text } from "./utf8-text.ts";

/** Pieces as a vocabulary makes them: `text` where the bytes are whole. */
function piece(bytes: Uint8Array): { bytes: Uint8Array; text: string | undefined } {
  const text = new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
  return { bytes, text: text.includes("\ufffd") ? undefined : text };
}

function cutUp(bytes: Uint8Array, cuts: readonly number[]): string[] {
  const joined = new Utf8Text();
  const texts: string[] = [];
  let at = 0;
  for (const cut of cuts) {
    texts.push(joined.push(piece(bytes.subarray(at, at + cut))));
    at += cut;
  }
  return [...texts, joined.push(piece(bytes.subarray(at))), joined.flush()];
}

test("holds a character back until its last byte", () => {
  expect(cutUp(new TextEncoder().encode("a😀b"), [2, 1, 1, 1])).toEqual(["a", "", "", "😀", "b", ""]);
});

test("gives a character that never ends as a replacement", () => {
  expect(cutUp(new TextEncoder().encode("é").subarray(0, 1), [])).toEqual(["", "\ufffd"]);
});

test("joins any bytes, cut anywhere, to what decoding them at once gives", () => {
  const part = fc.oneof(
    fc.string({ unit: "binary", maxLength: 4 }).map((text) => new TextEncoder().encode(text)),
    fc.uint8Array({ maxLength: 4 }),
  );
  fc.assert(
    fc.property(fc.array(part, { maxLength: 8 }), fc.array(fc.integer({ min: 1, max: 4 })), (parts, cuts) => {
      const bytes = Uint8Array.from(parts.flatMap((one) => [...one]));
      expect(cutUp(bytes, cuts).join("")).toBe(new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes));
    }),
    { numRuns: 1_000 },
  );
});

import { expect, test } from "vitest";
import { percentEncode } from "#kernel/rpc-response.ts";

test.each([
  ["plain, with: punctuation; (and) 100~", "plain, with: punctuation; (and) 100~"],
  [" blanks ", "%20blanks%20"],
  ["100%", "100%25"],
  ["line\nbreak", "line%0Abreak"],
  ["Grüße 🦊", "Gr%C3%BC%C3%9Fe %F0%9F%A6%8A"],
  ["lone \ud800", "lone %EF%BF%BD"],
])("percent-encodes %j as %j", (text, encoded) => {
  expect(percentEncode(text)).toBe(encoded);
});

import { expect, test } from "vitest";
import { bearerToken, createApiKey, parseApiKey, sameSecret, sha256 } from "#kernel/api-key.ts";

test("a key survives its text, and its secret is not in what is kept", () => {
  const key = createApiKey();
  const parsed = parseApiKey(key.text);
  expect(parsed?.id).toBe(key.id);
  expect(sameSecret(parsed?.secretSha256 ?? new Uint8Array(), key.secretSha256)).toBe(true);
  expect(key.text).not.toContain(Buffer.from(key.secretSha256).toString("hex"));
});

test.each([
  "",
  "hm_",
  "hm_0123456789ab_short",
  "sk-abc",
  `hm_0123456789ab_${"A".repeat(48)}`,
  ` ${createApiKey().text}`,
])("%j is no key", (text) => expect(parseApiKey(text)).toBeUndefined());

test.each([
  ["Bearer abc", "abc"],
  ["bearer   abc ", "abc"],
  ["Basic abc", undefined],
  ["Bearer", undefined],
  ["Bearer a b", undefined],
  [undefined, undefined],
])("the token of %j is %j", (header, token) => {
  expect(bearerToken(header)).toBe(token);
});

test("secrets of other lengths or bytes differ", () => {
  expect(sameSecret(sha256("a"), sha256("b"))).toBe(false);
  expect(sameSecret(sha256("a"), sha256("a").subarray(1))).toBe(false);
});

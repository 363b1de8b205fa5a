import { expect, test } from "vitest";
import { isZone } from "#kernel/zone.ts";

test.each(["", "a", "eu-1a", "us-east1-b", "Rack_7.2", "x".repeat(63)])("%j may be a zone", (zone) => {
  expect(isZone(zone)).toBe(true);
});

test.each(["-a", "a-", "a b", "a/b", "a@b", "a,b", "zürich", "a\n", "x".repeat(64)])("%j may not", (zone) => {
  expect(isZone(zone)).toBe(false);
});

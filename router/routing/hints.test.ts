import { describe, expect, test } from "vitest";
import { routingHints } from "./hints.ts";

describe("a caller's hints", () => {
  test.each([
    ["1", true],
    ["true", true],
    ["0", false],
    ["", false],
  ])("ask for an explanation with %j: %s", (value, asked) => {
    const headers = new Map([["x-helixmesh-explain", value]]);
    const hints = routingHints(
      (name) => headers.get(name),
      () => {},
    );
    expect(hints.onPlaced !== undefined).toBe(asked);
  });

  test("are absent where their headers are empty", () => {
    expect(
      routingHints(
        () => "",
        () => {},
      ),
    ).toEqual({ session: undefined, canary: undefined });
  });
});

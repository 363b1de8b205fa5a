import { describe, expect, test } from "vitest";
import { chainFault } from "./alias-chain.ts";

const fault = (aliases: Record<string, string>, alias: string, target: string) =>
  chainFault(new Map(Object.entries(aliases)), alias, target);

describe("an alias", () => {
  test.each([
    ["a model", {}, "a", "m"],
    ["an alias of a model", { b: "m" }, "a", "b"],
    ["another model than before", { a: "m", b: "a" }, "a", "n"],
    ["what it points at already", { a: "b", b: "m" }, "a", "b"],
    ["a chain, 8 steps in all", { b: "c", c: "d", d: "e", e: "f", f: "g", g: "h", h: "m" }, "a", "b"],
  ])("may point at %s", (_, aliases, alias, target) => {
    expect(fault(aliases, alias, target)).toBe(undefined);
  });

  test.each([
    ["itself", {}, "a", "a", "a → a"],
    ["one that points at it", { b: "a", a: "m" }, "a", "b", "a → b → a"],
    ["one that leads to it", { c: "b", b: "a", a: "m" }, "a", "c", "a → c → b → a"],
  ])("may not point at %s, and the refusal shows the loop", (_, aliases, alias, target, chain) => {
    const refused = fault(aliases, alias, target);
    expect(refused?.message).toBe(`model "${target}" leads back to the alias itself: ${chain}`);
  });

  const seven = { b: "c", c: "d", d: "e", e: "f", f: "g", g: "h", h: "m" };
  test.each([
    ["itself", { ...seven, x: "b" }, "a", "x", "a → x → b → c → d → e → f → g → h → m"],
    ["one that leads to it", { ...seven, x: "a", a: "n" }, "a", "b", "x → a → b → c → d → e → f → g → h → m"],
  ])("may not be more than 8 steps from its model, nor make %s so", (_, aliases, alias, target, chain) => {
    expect(fault(aliases, alias, target)).toMatchObject({
      field: "model",
      limit: "8 aliases",
      message: `model "${target}" makes a chain of 9 aliases: ${chain}; at most 8`,
    });
  });
});

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { StopMatcher } from "./stop-strings.ts";

function run(stops: readonly string[], pieces: readonly string[]): { text: string; stopped: boolean } {
  const matcher = new StopMatcher(stops);
  let text = "";
  for (const piece of pieces) {
    const outcome = matcher.push(piece);
    text += outcome.text;
    if (outcome.stopped) return { text, stopped: true };
  }
  return { text: text + matcher.flush(), stopped: false };
}

describe("StopMatcher", () => {
  test("releases everything at once without stop strings", () => {
    const matcher = new StopMatcher([]);
    expect(matcher.push("abc")).toEqual({ text: "abc", stopped: false });
    expect(matcher.flush()).toBe("");
  });

  test("cuts the stop string and what follows it", () => {
    expect(run(["END"], ["one END two"])).toEqual({ text: "one ", stopped: true });
  });

  test("finds a stop string that arrives in pieces", () => {
    expect(run(["END"], ["one E", "N", "D two"])).toEqual({ text: "one ", stopped: true });
  });

  test("holds back no more than what may become a stop string", () => {
    const matcher = new StopMatcher(["END"]);
    expect(matcher.push("one EN").text).toBe("one ");
    expect(matcher.push("ERGY").text).toBe("ENERGY");
  });

  test("releases held text when the text ends", () => {
    expect(run(["END"], ["one EN"])).toEqual({ text: "one EN", stopped: false });
  });

  test("lets the stop string win that completes first", () => {
    expect(run(["abcd", "bc"], ["xabcd"])).toEqual({ text: "xa", stopped: true });
  });

  test("lets the longest win of those that complete together", () => {
    expect(run(["c", "abc"], ["x", "abc"])).toEqual({ text: "x", stopped: true });
  });

  test("knows a stop string within a repeated beginning", () => {
    expect(run(["aab"], ["a", "a", "a", "b"])).toEqual({ text: "a", stopped: true });
  });

  test("gives the same outcome however the text is cut", () => {
    const letter = fc.constantFrom("a", "b", "c", "😀");
    const word = fc.array(letter, { minLength: 1, maxLength: 4 }).map((letters) => letters.join(""));
    fc.assert(
      fc.property(
        fc.array(word, { maxLength: 3 }),
        fc.array(letter, { maxLength: 30 }),
        fc.array(fc.nat(4)),
        (stops, letters, cuts) => {
          const pieces: string[] = [];
          let at = 0;
          for (const cut of cuts) {
            pieces.push(letters.slice(at, at + cut).join(""));
            at += cut;
          }
          pieces.push(letters.slice(at).join(""));
          expect(run(stops, pieces)).toEqual(run(stops, letters));
        },
      ),
      { numRuns: 300 },
    );
  });
});

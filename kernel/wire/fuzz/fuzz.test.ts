import { afterAll, describe, expect, test } from "vitest";
import { seededRandom } from "#kernel/random.ts";
import { readCorpus } from "#kernel/wire/fuzz/corpus.ts";
import { Coverage } from "#kernel/wire/fuzz/coverage.ts";
import { fuzz } from "#kernel/wire/fuzz/loop.ts";
import { fuzzTargets } from "#kernel/wire/fuzz/targets.ts";

// Before what it watches is loaded.
const coverage = new Coverage((url) => url.includes("planted-fault.fixture"));
afterAll(() => coverage.stop());
const { decodeWithFault } = await import("#kernel/wire/fuzz/planted-fault.fixture.ts");

describe.each(fuzzTargets)("$name", (target) => {
  test("holds for what earlier runs of the fuzzer found to matter", async () => {
    const corpus = readCorpus(target.name);
    expect(corpus.length).toBeGreaterThan(5);
    for (const input of corpus) await target.run(input);
  });

  test("holds for some inputs made from it", async () => {
    const corpus = readCorpus(target.name);
    const goesOn = ({ executions }: { executions: number }): boolean => executions < 1_000;
    const { failure } = await fuzz({ target, corpus, random: seededRandom(3), goesOn });
    expect(failure).toBeUndefined();
  });
});

describe("the loop", () => {
  const target = { name: "planted", seeds: [Buffer.alloc(8)], run: decodeWithFault };
  const goesOn = ({ executions }: { executions: number }): boolean => executions < 60_000;

  test("finds a fault behind four right bytes, led there by coverage", async () => {
    const { failure, corpus } = await fuzz({ target, corpus: [], coverage, random: seededRandom(1), goesOn });
    expect(failure).toMatchObject({ error: new RangeError("read behind the end") });
    expect(failure?.input.subarray(0, 4).toString("hex")).toBe("484d8007");
    expect(corpus.length).toBeGreaterThanOrEqual(3);
  });

  test("does not find it by chance", async () => {
    const { failure, executions } = await fuzz({ target, corpus: [], random: seededRandom(1), goesOn });
    expect(failure).toBeUndefined();
    expect(executions).toBeGreaterThanOrEqual(60_000);
  });
});

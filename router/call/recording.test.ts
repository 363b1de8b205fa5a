import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { Metrics } from "#kernel/metrics.ts";
import { Tape } from "../link/tape.ts";
import { Recording } from "./recording.ts";
import { RecordingMemory } from "./recording-memory.ts";

const budgetOf = (maxMigrationBytes: number, maxMigrationTotalBytes = 1 << 20): RecordingMemory =>
  new RecordingMemory({ maxMigrationBytes, maxMigrationTotalBytes }, new Metrics("test"));

/** As a link lends it: in the middle of other bytes, which change afterwards. */
function add(recording: Recording, response: Uint8Array): void {
  const lent = Uint8Array.of(1, ...response, 2);
  recording.add(lent, 1, lent.length - 1);
  lent.fill(255);
}

describe("a recording", () => {
  test("gives back every response as it came, whatever their number and sizes", () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 300 }), { maxLength: 60 }), (responses) => {
        const recording = new Recording(budgetOf(1 << 20), true);
        for (const response of responses) add(recording, response);
        const read = recording.read();
        expect(typeof read === "string" ? read : read.map((one) => new Uint8Array(one))).toEqual(responses);
      }),
    );
  });

  test("is the same whoever its tape is lent to, and however often", () => {
    const responses = fc.array(fc.tuple(fc.uint8Array({ maxLength: 200 }), fc.nat(3)), { maxLength: 60 });
    fc.assert(
      fc.property(responses, (sent) => {
        const recording = new Recording(budgetOf(1 << 20), true);
        const tapes = [new Tape(), new Tape()];
        let lent: Tape | undefined;
        for (const [response, borrower] of sent) {
          lent = tapes[borrower] ?? lent;
          if (lent) recording.lend(lent);
          if (!lent?.copy(response, 0, response.length)) add(recording, response);
        }
        const read = recording.read();
        expect(typeof read === "string" ? read : read.map((one) => new Uint8Array(one))).toEqual(
          sent.map(([response]) => response),
        );
      }),
    );
  });

  test.each([
    ["ends", "off", (recording: Recording) => recording.end()],
    ["outgrows its limit", "call", (recording: Recording) => add(recording, new Uint8Array(990))],
  ])("that %s takes its memory from whoever its tape is lent to", (_what, why, act) => {
    const recording = new Recording(budgetOf(1_000), true);
    const tape = new Tape();
    add(recording, new Uint8Array(10));
    recording.lend(tape);
    expect(tape.copy(new Uint8Array(10), 0, 10)).toBe(true);
    act(recording);
    expect(recording.read()).toBe(why);
    expect(tape).toMatchObject({ at: -1, memory: { length: 0 } });
    expect(tape.copy(new Uint8Array(10), 0, 10)).toBe(true);
  });

  test("holds exactly its limit, and is dropped whole by one byte more", () => {
    // With the lengths: two bytes before the first response, one before the second.
    const recording = new Recording(budgetOf(2 + 995 + 1 + 2), true);
    add(recording, new Uint8Array(995));
    add(recording, new Uint8Array(2));
    expect(recording.read()).toHaveLength(2);
    add(recording, new Uint8Array(1));
    expect(recording.read()).toBe("call");
    add(recording, new Uint8Array(1));
    expect(recording.read()).toBe("call");
  });

  test("shares the limit of all, and gives its part back when it ends or is dropped", () => {
    const budget = budgetOf(1_004, 1_536);
    const [first, second, third] = [0, 1, 2].map(() => new Recording(budget, true));
    for (const recording of [first, second, third]) recording?.add(new Uint8Array(500), 0, 500);
    second?.add(new Uint8Array(500), 0, 500);
    expect(second?.read()).toBe("total");
    first?.add(new Uint8Array(500), 0, 500);
    expect(first?.read()).toHaveLength(2);
    first?.end();
    third?.add(new Uint8Array(500), 0, 500);
    expect(third?.read()).toHaveLength(2);
  });

  test("that begins anew leaves what was read of it as it was", () => {
    const recording = new Recording(budgetOf(1_000), true);
    add(recording, Uint8Array.of(1, 2));
    const before = recording.read();
    recording.restart();
    add(recording, Uint8Array.of(3, 4));
    expect(before).toEqual([Buffer.of(1, 2)]);
    expect(recording.read()).toEqual([Buffer.of(3, 4)]);
  });

  test("keeps nothing where that is off", () => {
    for (const recording of [new Recording(budgetOf(0), true), new Recording(budgetOf(1_000), false)]) {
      add(recording, Uint8Array.of(1));
      expect(recording.read()).toBe("off");
    }
  });
});

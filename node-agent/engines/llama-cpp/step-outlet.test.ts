import { expect, test } from "vitest";
import { FinishReason } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { ManualClock } from "#kernel/clock.ts";
import type { WireEvent } from "./messages.ts";
import { StepOutlet, outletIntervalMs } from "./step-outlet.ts";

function outlet() {
  const clock = new ManualClock();
  const sent: WireEvent[][] = [];
  const outlet = new StepOutlet(clock, (events) => sent.push([...events]));
  const step = (...events: WireEvent[]): void => {
    for (const event of events) outlet.push(event);
    outlet.stepEnded();
  };
  return { clock, sent, outlet, step };
}

const tokens = (id: number, text: string, tokenId: number): WireEvent => ({
  kind: "tokens",
  id,
  text,
  tokenIds: [tokenId],
});
const started = (id: number): WireEvent => ({ kind: "started", id, promptTokens: 3, cachedTokens: 0 });
const finished = (id: number): WireEvent => ({ kind: "finished", id, reason: FinishReason.STOP, completionTokens: 2 });

test("steps that are further apart than the interval leave at once", () => {
  const { clock, sent, step } = outlet();
  step(tokens(1, "a", 1));
  clock.advance(outletIntervalMs);
  step(tokens(1, "b", 2));
  expect(sent).toEqual([[tokens(1, "a", 1)], [tokens(1, "b", 2)]]);
});

test("steps within the interval wait for its end and leave as one event a sequence, in order", () => {
  const { clock, sent, step } = outlet();
  step(tokens(1, "a", 1));
  step(tokens(1, "b", 2), tokens(2, "x", 7));
  step(tokens(1, "c", 3), tokens(2, "y", 8));
  expect(sent).toHaveLength(1);
  clock.advance(outletIntervalMs);
  expect(sent[1]).toEqual([
    { kind: "tokens", id: 1, text: "bc", tokenIds: [2, 3] },
    { kind: "tokens", id: 2, text: "xy", tokenIds: [7, 8] },
  ]);
});

test("a start and an end are not held back, and what waits goes before them", () => {
  const { sent, step } = outlet();
  step(tokens(1, "a", 1));
  step(tokens(1, "b", 2));
  step(tokens(1, "c", 3), finished(1));
  step(started(2), tokens(2, "x", 7));
  expect(sent).toEqual([
    [tokens(1, "a", 1)],
    [{ kind: "tokens", id: 1, text: "bc", tokenIds: [2, 3] }, finished(1)],
    [started(2), tokens(2, "x", 7)],
  ]);
});

test("logprobs stay with their tokens", () => {
  const { sent, step, outlet: waiting } = outlet();
  const logprob = (tokenId: number) => ({ tokenId, token: "t", tokenBytes: new Uint8Array(), logprob: -1, top: [] });
  step(tokens(1, "a", 1));
  step({ kind: "tokens", id: 1, text: "b", tokenIds: [2], logprobs: [logprob(2)] });
  step({ kind: "tokens", id: 1, text: "c", tokenIds: [3], logprobs: [logprob(3)] });
  waiting.flush();
  expect(sent[1]).toEqual([
    { kind: "tokens", id: 1, text: "bc", tokenIds: [2, 3], logprobs: [logprob(2), logprob(3)] },
  ]);
});

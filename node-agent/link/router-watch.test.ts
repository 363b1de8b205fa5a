import { create } from "@bufbuild/protobuf";
import { describe, expect, test } from "vitest";
import { Method, StartCallSchema } from "#gen/helixmesh/link/v1/link_pb.ts";
import { KeptBytes } from "./kept-bytes.ts";
import { RouterWatch } from "./router-watch.ts";
import { type CallOwner, SessionCall } from "./session-call.ts";

const nobody: CallOwner = { onResponses() {}, onEnd() {}, onForgotten() {}, onTaken() {} };

function open() {
  const answers: (() => void)[] = [];
  let silent = 0;
  const watch = new RouterWatch({
    ask: (onAnswer) => void answers.push(onAnswer),
    onSilent: () => void (silent += 1),
  });
  const ticks = (count: number, busy = true): void => {
    for (let tick = 0; tick < count; tick++) watch.tick(busy);
  };
  return { watch, answers, ticks, silent: () => silent };
}

const kept = new KeptBytes({ callBytes: 10_000, totalBytes: 10_000 }, () => {});
function endedCall(): SessionCall {
  const start = create(StartCallSchema, { method: Method.GENERATE, keyId: "k" });
  const call = new SessionCall(start, nobody, kept);
  call.running = { cancel() {}, orphan() {} };
  return call;
}

describe("a router with calls", () => {
  test("is asked once a heartbeat while it answers", () => {
    const { answers, ticks, silent } = open();
    for (let heartbeat = 1; heartbeat <= 3; heartbeat++) {
      ticks(2);
      expect(answers).toHaveLength(heartbeat);
      answers.at(-1)?.();
    }
    expect(silent()).toBe(0);
  });

  test("is gone when it has not answered for three heartbeats", () => {
    const { ticks, silent } = open();
    ticks(2 + 5);
    expect(silent()).toBe(0);
    ticks(1);
    expect(silent()).toBe(1);
    ticks(10);
    expect(silent()).toBe(1);
  });

  test("has the ends that were sent before what it answered", () => {
    const { watch, answers, ticks } = open();
    const [before, after] = [endedCall(), endedCall()];
    watch.ended(before);
    ticks(2);
    watch.ended(after);
    answers[0]?.();
    expect([before.resumable, after.resumable]).toEqual([false, true]);
    expect(watch.takeUnheard()).toEqual([after]);
    expect(watch.takeUnheard()).toEqual([]);
  });
});

test("a router without calls is asked for the last end alone", () => {
  const { watch, answers, ticks } = open();
  ticks(100, false);
  expect(answers).toHaveLength(0);
  watch.ended(endedCall());
  ticks(1, false);
  answers[0]?.();
  ticks(100, false);
  expect(answers).toHaveLength(1);
});

import { create, fromBinary } from "@bufbuild/protobuf";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { ConnectRequestSchema, Method, ResumeCallSchema, StartCallSchema } from "#gen/helixmesh/link/v1/link_pb.ts";
import { CallQueue } from "./call-queue.ts";

const bytes = fc.uint8Array({ maxLength: 100 });
const text = fc.string({ unit: "grapheme", maxLength: 20 });
const start = fc.record({
  callId: text,
  replicaId: text,
  method: fc.constantFrom(Method.UNSPECIFIED, Method.GENERATE, Method.EMBED),
  request: bytes,
  timeoutMs: fc.nat(),
  traceparent: text,
  model: text,
  deployment: text,
  relayed: fc.array(bytes, { maxLength: 3 }),
  keyId: text,
  startedAtMs: fc.nat(),
  attempt: fc.nat(100),
});

function taken(queue: CallQueue) {
  const message = queue.take();
  return fromBinary(ConnectRequestSchema, Uint8Array.from(message.bytes.subarray(0, message.length))).frame;
}

const who = { keyId: "k", startedAtMs: 1, attempt: 1 };
const resume = fc.record({ callId: text, keyId: text, replicaId: text, requestSha256: bytes });

describe("a call queue", () => {
  test("writes what protobuf-es reads", () => {
    fc.assert(
      fc.property(
        fc.array(start),
        fc.array(resume),
        fc.uniqueArray(fc.nat()),
        fc.uniqueArray(text),
        (starts, resumes, cancels, resendPrefixes) => {
          const queue = new CallQueue();
          for (const [index, one] of starts.entries()) queue.start(index + 1, one);
          for (const [index, resume] of resumes.entries()) queue.resume(index + 1, resume);
          for (const number of cancels.filter((one) => one > 0)) queue.cancel(number);
          for (const id of resendPrefixes.filter((one) => one !== "")) queue.resendPrefixes(id);
          const expected = starts.map((one, index) =>
            create(StartCallSchema, {
              ...one,
              number: index + 1,
              timeoutMs: BigInt(one.timeoutMs),
              startedAtMs: BigInt(one.startedAtMs),
            }),
          );
          expect(taken(queue)).toMatchObject({
            case: "calls",
            value: {
              starts: expected,
              resumes: resumes.map(({ callId, keyId, requestSha256 }, index) =>
                create(ResumeCallSchema, { number: index + 1, callId, keyId, requestSha256 }),
              ),
              cancels: cancels.filter((one) => one > 0),
              resendPrefixes: resendPrefixes.filter((one) => one !== ""),
            },
          });
          expect(queue.isEmpty).toBe(true);
        },
      ),
    );
  });

  test("sends a start that is larger than a batch alone", () => {
    const queue = new CallQueue();
    const one = { callId: "c", replicaId: "r", method: Method.GENERATE, timeoutMs: 1, traceparent: "", model: "m" };
    for (const length of [10, 3_000_000, 10]) {
      queue.start(length, { ...one, deployment: "d", relayed: [], ...who, request: new Uint8Array(length) });
    }
    const sizes = [taken(queue), taken(queue), taken(queue)].map(
      (frame) => frame.case === "calls" && frame.value.starts.map(({ request }) => request.length),
    );
    expect(sizes).toEqual([[10], [3_000_000], [10]]);
    expect(queue.isEmpty).toBe(true);
  });
});

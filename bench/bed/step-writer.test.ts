import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { CallEndSchema, ConnectResponseSchema, StepBatchSchema } from "#gen/helixmesh/link/v1/link_pb.ts";
import { deltaBytes } from "./answer.ts";
import { StepWriter } from "./step-writer.ts";

test("what is written by hand is what the schema reads, also when it outgrows its first buffer", () => {
  const writer = new StepWriter();
  const end = create(CallEndSchema, { usage: { completionTokens: 7 } });
  for (let number = 1; number <= 5_000; number++) {
    writer.begin(number);
    writer.response(deltaBytes(number % 300, false));
    if (number === 5_000) writer.end(toBinary(CallEndSchema, end));
    writer.finish(number === 5_000 ? 0 : 1);
  }
  const rest = toBinary(StepBatchSchema, create(StepBatchSchema, { loads: [{ replicaId: "replica-1", running: 3 }] }));
  const taken = writer.take(rest);
  const { frame } = fromBinary(ConnectResponseSchema, Uint8Array.from(taken.bytes.subarray(taken.start, taken.end)));
  expect(frame).toEqual(
    create(ConnectResponseSchema, {
      frame: {
        case: "step",
        value: {
          deltas: Array.from({ length: 5_000 }, (_, at) => ({
            number: at + 1,
            responses: [deltaBytes((at + 1) % 300, false)],
            completionTokens: at === 4_999 ? 0 : 1,
            ...(at === 4_999 ? { end } : {}),
          })),
          loads: [{ replicaId: "replica-1", running: 3 }],
        },
      },
    }).frame,
  );
});

test("a step without deltas is a heartbeat", () => {
  const taken = new StepWriter().take(new Uint8Array(0));
  const { frame } = fromBinary(ConnectResponseSchema, Uint8Array.from(taken.bytes.subarray(taken.start, taken.end)));
  expect(frame).toEqual(create(ConnectResponseSchema, { frame: { case: "step", value: {} } }).frame);
});

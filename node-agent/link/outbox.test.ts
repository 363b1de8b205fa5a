import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import {
  CallEndSchema,
  ConnectResponseSchema,
  ReplicaInfoSchema,
  type StepBatch,
} from "#gen/helixmesh/link/v1/link_pb.ts";
import { ReplicaLoadSchema, ReplicaState } from "#gen/helixmesh/type/v1/type_pb.ts";
import { Outbox } from "./outbox.ts";

const bytes = (length: number) => new Uint8Array(length);
const load = (replicaId: string, running: number) =>
  toBinary(ReplicaLoadSchema, create(ReplicaLoadSchema, { replicaId, running }));

function taken(outbox: Outbox): StepBatch {
  const message = outbox.take();
  const { frame } = fromBinary(ConnectResponseSchema, Uint8Array.from(message.bytes.subarray(0, message.length)));
  if (frame.case !== "step") throw new Error(`the message is ${frame.case}`);
  return frame.value;
}

describe("an outbox", () => {
  test("joins what waits for one call into one delta, its end included", () => {
    const outbox = new Outbox({ callBytes: 100, linkBytes: 100 });
    outbox.push(1, "r", [bytes(3)], 1);
    outbox.push(2, "r", [bytes(4)], 1);
    outbox.push(1, "r", [bytes(5)], 2);
    outbox.end(1, "r", create(CallEndSchema));
    const { deltas } = taken(outbox);
    expect(
      deltas.map((delta) => [delta.number, delta.responses.map((one) => one.length), delta.completionTokens]),
    ).toEqual([
      [1, [3, 5], 3],
      [2, [4], 1],
    ]);
    expect(deltas.map((delta) => delta.end !== undefined)).toEqual([true, false]);
    expect(outbox.isEmpty).toBe(true);
  });

  test("takes no more of a call past its limit, and none of any past the link's", () => {
    const outbox = new Outbox({ callBytes: 10, linkBytes: 25 });
    expect(outbox.push(1, "r", [bytes(6)], 0)).toBe("queued");
    expect(outbox.push(1, "r", [bytes(6)], 0)).toBe("call-full");
    // One response that alone is larger than the limit must go out all the same.
    expect(outbox.push(2, "r", [bytes(15)], 0)).toBe("queued");
    expect(outbox.push(3, "r", [bytes(6)], 0)).toBe("link-full");
    outbox.take();
    expect(outbox.push(1, "r", [bytes(6)], 0)).toBe("queued");
  });

  test("keeps only the newest load and description of a replica", () => {
    const outbox = new Outbox({ callBytes: 10, linkBytes: 10 });
    for (const running of [1, 2]) outbox.setLoad("r", load("r", running));
    for (const state of [ReplicaState.LOADING, ReplicaState.READY]) {
      outbox.setReplica(create(ReplicaInfoSchema, { replicaId: "r", state }));
    }
    const batch = taken(outbox);
    expect(batch.loads.map((one) => one.running)).toEqual([2]);
    expect(batch.replicas.map((replica) => replica.state)).toEqual([ReplicaState.READY]);
  });

  test("sends no load that its router knows, but for a replica that was gone", () => {
    const outbox = new Outbox({ callBytes: 10, linkBytes: 10 });
    const told = (...loads: [string, number][]) => {
      for (const [id, running] of loads) outbox.setLoad(id, load(id, running));
      outbox.keepLoadsOf(new Map(loads));
      return taken(outbox).loads.map((one) => one.replicaId);
    };
    expect(told(["a", 0], ["b", 0])).toEqual(["a", "b"]);
    expect(told(["a", 0], ["b", 1])).toEqual(["b"]);
    expect(told(["a", 0])).toEqual([]);
    expect(told(["a", 0], ["b", 1])).toEqual(["b"]);
  });

  test("does not send a load that went back to what its router knows before it left", () => {
    const outbox = new Outbox({ callBytes: 10, linkBytes: 10 });
    outbox.setLoad("a", load("a", 1));
    outbox.take();
    outbox.setLoad("a", load("a", 2));
    outbox.setLoad("a", load("a", 1));
    expect(outbox.isEmpty).toBe(true);
  });

  test("names the replicas of the deltas that wait", () => {
    const outbox = new Outbox({ callBytes: 10, linkBytes: 10 });
    outbox.push(1, "a", [bytes(1)], 1);
    outbox.end(2, "b", create(CallEndSchema));
    expect([...outbox.steppedReplicas]).toEqual(["a", "b"]);
    outbox.take();
    expect(outbox.steppedReplicas.size).toBe(0);
  });

  test("writes what protobuf-es reads", () => {
    const response = fc.uint8Array({ maxLength: 300 });
    const delta = fc.record({
      responses: fc.array(response),
      tokens: fc.nat(),
      ends: fc.boolean(),
      message: fc.string(),
    });
    const digest = fc.record({
      replicaId: fc.string(),
      sequence: fc.nat(),
      snapshot: fc.boolean(),
      added: fc.array(fc.nat(0xffff_ffff)),
      removed: fc.array(fc.nat(0xffff_ffff)),
    });
    fc.assert(
      fc.property(fc.array(delta), fc.array(digest), (deltas, digests) => {
        const outbox = new Outbox({ callBytes: 1e6, linkBytes: 1e9 });
        for (const [index, { responses, tokens, ends, message }] of deltas.entries()) {
          outbox.push(index + 1, "r", responses, tokens);
          if (ends) outbox.end(index + 1, "r", create(CallEndSchema, { reason: Reason.OVERLOADED, message }));
        }
        outbox.setDigests(digests);
        const step = taken(outbox);
        expect(step.deltas.map(({ number, completionTokens }) => [number, completionTokens])).toEqual(
          deltas.map(({ tokens }, index) => [index + 1, tokens]),
        );
        expect(step.deltas.map(({ responses }) => responses.map((one) => Array.from(one)))).toEqual(
          deltas.map(({ responses }) => responses.map((one) => Array.from(one))),
        );
        expect(step.deltas.map(({ end }) => end?.message)).toEqual(
          deltas.map(({ ends, message }) => (ends ? message : undefined)),
        );
        expect(step.prefixes).toMatchObject(digests.map((one) => ({ ...one, sequence: BigInt(one.sequence) })));
      }),
    );
  });
});

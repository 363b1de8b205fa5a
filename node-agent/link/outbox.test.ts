import { create } from "@bufbuild/protobuf";
import { describe, expect, test } from "vitest";
import { CallEndSchema, ReplicaInfoSchema } from "#gen/helixmesh/link/v1/link_pb.ts";
import { ReplicaLoadSchema, ReplicaState } from "#gen/helixmesh/type/v1/type_pb.ts";
import { LoadChanges } from "./load-changes.ts";
import { Outbox } from "./outbox.ts";

const bytes = (length: number) => new Uint8Array(length);

describe("Outbox", () => {
  test("joins what waits for one call into one delta, its end included", () => {
    const outbox = new Outbox({ callBytes: 100, linkBytes: 100 });
    outbox.push(1, [bytes(3)], 1);
    outbox.push(2, [bytes(4)], 1);
    outbox.push(1, [bytes(5)], 2);
    outbox.end(1, create(CallEndSchema));
    const { deltas } = outbox.take();
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
    expect(outbox.push(1, [bytes(6)], 0)).toBe("queued");
    expect(outbox.push(1, [bytes(6)], 0)).toBe("call-full");
    // One response that alone is larger than the limit must go out all the same.
    expect(outbox.push(2, [bytes(15)], 0)).toBe("queued");
    expect(outbox.push(3, [bytes(6)], 0)).toBe("link-full");
    outbox.take();
    expect(outbox.push(1, [bytes(6)], 0)).toBe("queued");
  });

  test("keeps only the newest load and description of a replica", () => {
    const outbox = new Outbox({ callBytes: 10, linkBytes: 10 });
    for (const running of [1, 2]) outbox.setLoad(create(ReplicaLoadSchema, { replicaId: "r", running }));
    for (const state of [ReplicaState.LOADING, ReplicaState.READY]) {
      outbox.setReplica(create(ReplicaInfoSchema, { replicaId: "r", state }));
    }
    const batch = outbox.take();
    expect(batch.loads.map((load) => load.running)).toEqual([2]);
    expect(batch.replicas.map((replica) => replica.state)).toEqual([ReplicaState.READY]);
  });
});

describe("LoadChanges", () => {
  test("lets only news through, and knows nothing of a replica that was gone", () => {
    const changes = new LoadChanges();
    const load = (replicaId: string, running: number) => create(ReplicaLoadSchema, { replicaId, running });
    const ids = (loads: ReturnType<typeof load>[]) => changes.changed(loads).map((one) => one.replicaId);
    expect(ids([load("a", 0), load("b", 0)])).toEqual(["a", "b"]);
    expect(ids([load("a", 0), load("b", 1)])).toEqual(["b"]);
    expect(ids([load("a", 0)])).toEqual([]);
    expect(ids([load("a", 0), load("b", 1)])).toEqual(["b"]);
  });
});

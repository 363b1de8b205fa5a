import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { describe, expect, test } from "vitest";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { GenerateResponseSchema } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { Outcome } from "#gen/helixmesh/type/v1/type_pb.ts";
import { begin, delta, end, failed, send, started } from "./test-call.ts";

const finished = toBinary(
  GenerateResponseSchema,
  create(GenerateResponseSchema, { event: { case: "finished", value: { usage: { completionTokens: 3 } } } }),
);
const other = toBinary(
  GenerateResponseSchema,
  create(GenerateResponseSchema, { event: { case: "delta", value: { text: "b", tokenIds: [7] } } }),
);
/** As a client has it. */
const isMarked = (response: Uint8Array | undefined): boolean => {
  const { event } = fromBinary(GenerateResponseSchema, response ?? new Uint8Array());
  return event.case === "finished" && event.value.unrepeatable;
};

describe("a call with output", () => {
  test.each([Reason.NODE_LOST, Reason.ENGINE_FAILED, Reason.DRAINING])(
    "goes on elsewhere for reason %i: nothing is lost, repeated or counted twice",
    (reason) => {
      const { client, ask, settlements, permits } = begin({ ready: ["r1", "r2"] });
      send(ask(0), [started, delta], 1);
      send(ask(0), [other], 1);
      ask(0).call.onEnd(end(reason, 2));
      expect(ask(1).start).toMatchObject({ replicaId: "r2", callId: "call-1", deployment: "d", model: "pocket" });
      expect(ask(1).start.relayed).toEqual([started, delta, other]);
      send(ask(1), [delta], 1);
      send(ask(1), [finished], 0);
      ask(1).call.onEnd(end(Reason.UNSPECIFIED, 3));
      expect(client.got).toEqual([started, delta, other, delta, finished]);
      expect(client.end).toEqual({ kind: "finished" });
      expect(settlements).toMatchObject([
        { outcome: Outcome.COMPLETED, nodeId: "n-r2", completionTokens: 3, promptTokens: 7, attempts: 2, moves: 1 },
      ]);
      expect(permits.released).toBe(1);
    },
  );

  test("carries what every replica before brought, and moves as often as allowed", async () => {
    const { client, ask, settlements, metrics } = begin({ ready: ["r1", "r2", "r3", "r4"], settings: { maxMoves: 2 } });
    send(ask(0), [started, delta], 1);
    ask(0).call.onEnd(end(Reason.NODE_LOST));
    send(ask(1), [other], 1);
    ask(1).call.onEnd(end(Reason.NODE_LOST));
    expect(ask(2).start.relayed).toEqual([started, delta, other]);
    send(ask(2), [delta], 1);
    ask(2).call.onEnd(end(Reason.NODE_LOST));
    const message = expect.stringMatching(/moved 2 times already \(--max-moves\).*valid but incomplete/) as unknown;
    expect(client.end).toMatchObject({ kind: "failed", error: { reason: Reason.NODE_LOST, message } });
    expect(client.got).toEqual([started, delta, other, delta]);
    expect(settlements).toMatchObject([{ outcome: Outcome.FAILED, completionTokens: 3, attempts: 3, moves: 2 }]);
    expect(await metrics.text()).toMatch(/router_moves_total\{reason="node_lost"[^}]*\} 2/);
    expect(await metrics.text()).toMatch(/router_moves_refused_total\{why="moves"[^}]*\} 1/);
  });

  test("carries an answer of any length, of responses of any length, from replica to replica", () => {
    const recordings = { maxMigrationBytes: 100_000, maxMigrationTotalBytes: 100_000 };
    const { client, ask } = begin({ ready: ["r1", "r2", "r3"], recordings });
    const responses = Array.from({ length: 60 }, (_, at) =>
      toBinary(
        GenerateResponseSchema,
        create(GenerateResponseSchema, { event: { case: "delta", value: { text: "x".repeat(at * 13) } } }),
      ),
    );
    const [early, late] = [responses.slice(0, 30), responses.slice(30)];
    send(ask(0), [started, ...early], early.length);
    ask(0).call.onEnd(end(Reason.NODE_LOST));
    expect(ask(1).start.relayed).toEqual([started, ...early]);
    send(ask(1), late, late.length);
    ask(1).call.onEnd(end(Reason.NODE_LOST));
    expect(ask(2).start.relayed).toEqual([started, ...responses]);
    expect(client.got).toEqual([started, ...responses]);
  });

  test("goes on elsewhere when its replica brings no next token in time, and hears nothing more of that one", () => {
    const { clock, client, ask } = begin({ ready: ["r1", "r2"] });
    send(ask(0), [started, delta], 1);
    clock.advance(4_999);
    send(ask(0), [delta], 1);
    clock.advance(4_999);
    expect(ask(0).cancelled).toBe(false);
    clock.advance(1);
    expect(ask(0).cancelled).toBe(true);
    send(ask(0), [other], 1);
    ask(0).call.onEnd(end(Reason.CANCELLED, 3));
    expect(ask(1).start.relayed).toEqual([started, delta, delta]);
    send(ask(1), [delta], 1);
    expect(client.got).toEqual([started, delta, delta, delta]);
  });

  test("whose first token does not come in time begins again elsewhere, and fails as stalled when that is no help", () => {
    const { clock, client, ask, settlements } = begin({ ready: ["r1", "r2"], settings: { maxAttempts: 2 } });
    send(ask(0), [started], 0);
    clock.advance(20_000);
    expect(ask(0).cancelled).toBe(true);
    expect(ask(1).start).toMatchObject({ replicaId: "r2", relayed: [] });
    clock.advance(20_000);
    expect(client.end).toMatchObject({
      kind: "failed",
      error: {
        reason: Reason.ENGINE_STALLED,
        limit: "20000 ms",
        message: expect.stringContaining("first token") as unknown,
      },
    });
    expect(settlements).toMatchObject([{ attempts: 2, moves: 0 }]);
    ask(0).call.onEnd(end(Reason.CANCELLED));
    ask(1).call.onEnd(end(Reason.CANCELLED));
    expect(settlements).toHaveLength(1);
    expect(clock.pendingTimers).toBe(0);
  });

  test("stays with its deployment, and waits for a replica there to come back", () => {
    const { clock, links, client, ask, settlements } = begin({ ready: ["r1"] });
    send(ask(0), [started, delta], 1);
    links.change();
    ask(0).call.onEnd(end(Reason.NODE_LOST));
    clock.advance(3_000);
    expect(links.starts).toHaveLength(1);
    links.change("r1");
    expect(ask(1).start.relayed).toEqual([started, delta]);
    send(ask(1), [finished], 0);
    ask(1).call.onEnd(end(Reason.UNSPECIFIED, 1));
    expect(client.got).toEqual([started, delta, finished]);
    expect(settlements).toMatchObject([{ waitedMs: 3_000, completionTokens: 1 }]);
  });

  test("says what its part is worth when no replica comes back", () => {
    const { clock, links, client, ask, settlements } = begin({ ready: ["r1"] });
    send(ask(0), [started, delta], 1);
    links.change();
    ask(0).call.onEnd(end(Reason.NODE_LOST));
    clock.advance(10_000);
    const message = expect.stringMatching(/waited 10000 ms.*valid but incomplete/) as unknown;
    expect(client.end).toMatchObject({ kind: "failed", error: { reason: Reason.NODE_LOST, message } });
    expect(settlements).toMatchObject([{ completionTokens: 1 }]);
    expect(clock.pendingTimers).toBe(0);
  });

  test("does not ask a replica again that would have said something else", () => {
    const { clock, ask } = begin({ ready: ["r1", "r2"] });
    send(ask(0), [started, delta], 1);
    ask(0).call.onEnd(end(Reason.NODE_LOST));
    ask(1).call.onEnd(end(Reason.CANNOT_CONTINUE));
    clock.advance(1_000);
    expect([0, 1, 2].map((index) => ask(index).start.replicaId)).toEqual(["r1", "r2", "r1"]);
  });

  test("tries other replicas that cannot go on with it, up to a number", () => {
    const { links, client, ask } = begin({ ready: ["r1", "r2", "r3", "r4"] });
    send(ask(0), [started, delta], 1);
    for (const index of [0, 1, 2, 3]) ask(index).call.onEnd(end(Reason.NODE_LOST));
    expect(links.starts).toHaveLength(4);
    expect(client.end).toMatchObject({
      kind: "failed",
      error: { message: expect.stringContaining("3 replicas in a row") as unknown },
    });
  });

  test("moves while its client does not read, and gives it all in order", () => {
    const { call, client, ask } = begin({ ready: ["r1", "r2"] });
    client.reads = false;
    send(ask(0), [started, delta, other], 2);
    ask(0).call.onEnd(end(Reason.NODE_LOST));
    expect(ask(1).start.relayed).toEqual([started, delta, other]);
    send(ask(1), [delta, finished], 1);
    ask(1).call.onEnd(end(Reason.UNSPECIFIED, 3));
    expect(client.got).toEqual([started]);
    client.reads = true;
    call.resume();
    expect(client.got).toEqual([started, delta, other, delta, finished]);
    expect(client.end).toEqual({ kind: "finished" });
  });

  test.each([
    ["its own limit", { maxMigrationBytes: 10 }, "bytes", /--max-migration-bytes/, "call"],
    ["that of all calls", { maxMigrationTotalBytes: 10 }, "total-bytes", /--max-migration-total-bytes/, "total"],
  ] as const)("cannot move once its answer outgrew %s, and says so", async (_name, recordings, why, message, limit) => {
    const { client, ask, metrics, links } = begin({ ready: ["r1", "r2"], recordings });
    send(ask(0), [started, delta, delta, delta], 3);
    ask(0).call.onEnd(end(Reason.NODE_LOST));
    expect(links.starts).toHaveLength(1);
    expect(client.end).toMatchObject({ error: { message: expect.stringMatching(message) as unknown } });
    expect(await metrics.text()).toMatch(new RegExp(`router_moves_refused_total\\{why="${why}"[^}]*\\} 1`));
    expect(await metrics.text()).toMatch(new RegExp(`router_recordings_dropped_total\\{limit="${limit}"[^}]*\\} 1`));
    expect(await metrics.text()).toMatch(/router_recordings_bytes\{[^}]*\} 0/);
  });

  test("is not continued by a replica that begins it anew", () => {
    const { client, ask } = begin({ ready: ["r1", "r2", "r3"] });
    send(ask(0), [started, delta], 1);
    ask(0).call.onEnd(end(Reason.NODE_LOST));
    send(ask(1), [started, delta], 1);
    expect(ask(1).cancelled).toBe(true);
    send(ask(2), [other], 1);
    expect(client.got).toEqual([started, delta, other]);
  });

  test("is cancelled at the replica that it moved to", () => {
    const { call, ask, settlements } = begin({ ready: ["r1", "r2"] });
    send(ask(0), [started, delta], 1);
    ask(0).call.onEnd(end(Reason.NODE_LOST));
    call.abort();
    expect(ask(1).cancelled).toBe(true);
    ask(1).call.onEnd(end(Reason.CANCELLED, 1));
    expect(settlements).toMatchObject([{ outcome: Outcome.CANCELLED, completionTokens: 1 }]);
  });

  test("frees what it recorded when it ends", async () => {
    const { ask, metrics } = begin({ ready: ["r1"] });
    send(ask(0), [started, delta], 1);
    expect(await metrics.text()).toMatch(/router_recordings_bytes\{[^}]*\} 512/);
    ask(0).call.onEnd(end(Reason.UNSPECIFIED, 1));
    expect(await metrics.text()).toMatch(/router_recordings_bytes\{[^}]*\} 0/);
  });

  test("fails at once where the fault is its own", () => {
    const { client, ask, links } = begin({ ready: ["r1", "r2"] });
    send(ask(0), [started, delta], 1);
    ask(0).call.onEnd(end(Reason.INTERNAL));
    expect(client.end).toEqual(failed(Reason.INTERNAL));
    expect(links.starts).toHaveLength(1);
  });
});

describe("a call with a seed", () => {
  function moved(forgetful: readonly string[], ready: string[] = ["r1", "r2"]) {
    const { client, ask } = begin({ ready, drawing: "seeded", forgetful });
    send(ask(0), [started, delta], 1);
    ask(0).call.onEnd(end(Reason.NODE_LOST));
    send(ask(1), [delta, finished], 1);
    ask(1).call.onEnd(end(Reason.UNSPECIFIED, 2));
    return { client, target: ask(1).start.replicaId, marked: isMarked(client.got.at(-1)) };
  }

  test("is as good as unmoved between replicas whose draws depend on seed and position alone", () => {
    expect(moved([])).toMatchObject({ marked: false });
  });

  test.each([["r1"], ["r2"]])("is marked when %s has other draws", (replica) => {
    expect(moved([replica])).toMatchObject({ marked: true });
  });

  test("goes to a replica that can repeat its draws where there is one", () => {
    expect(moved(["r2"], ["r1", "r2", "r3"])).toMatchObject({ target: "r3", marked: false });
  });

  test("begins anew rather than to be marked where its client has nothing of it yet", () => {
    const { client, ask } = begin({ ready: ["r1", "r2"], drawing: "seeded", forgetful: ["r1"] });
    client.whole = true;
    send(ask(0), [started, delta], 1);
    ask(0).call.onEnd(end(Reason.NODE_LOST));
    expect(ask(1).start.relayed).toEqual([]);
    send(ask(1), [started, other, finished], 1);
    expect(client.got).toEqual([started, other, finished]);
  });

  test("that has none moves unmarked", () => {
    const { client, ask } = begin({ ready: ["r1", "r2"], drawing: "random", forgetful: ["r1", "r2"] });
    send(ask(0), [started, delta], 1);
    ask(0).call.onEnd(end(Reason.NODE_LOST));
    send(ask(1), [finished], 0);
    expect(isMarked(client.got.at(-1))).toBe(false);
  });
});

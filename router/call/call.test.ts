import { describe, expect, test } from "vitest";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { Outcome } from "#gen/helixmesh/type/v1/type_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { begin, delta, end, failed, send, started } from "./test-call.ts";

describe("a call", () => {
  test("relays what the agent sends and is settled once with its count and times", () => {
    const { clock, settlements, permits, client, ask } = begin({ ready: ["r1"] });
    clock.advance(100);
    send(ask(0), [started], 0);
    send(ask(0), [delta], 1);
    clock.advance(50);
    send(ask(0), [delta, delta], 2);
    ask(0).call.onEnd(end(Reason.UNSPECIFIED, 3));
    expect(client.got).toEqual([started, delta, delta, delta]);
    expect(client.end).toEqual({ kind: "finished" });
    expect(permits.released).toBe(1);
    expect(clock.pendingTimers).toBe(0);
    expect(settlements).toMatchObject([
      {
        outcome: Outcome.COMPLETED,
        nodeId: "n-r1",
        promptTokens: 7,
        completionTokens: 3,
        ttftMs: 100,
        interTokenMs: 25,
        durationMs: 150,
        attempts: 1,
      },
    ]);
  });

  test.each([Reason.NODE_LOST, Reason.DRAINING, Reason.NO_READY_REPLICA, Reason.ENGINE_FAILED, Reason.OVERLOADED])(
    "goes elsewhere before the first token for reason %i, and sends Started once",
    (reason) => {
      const { settlements, client, ask } = begin({ ready: ["r1", "r2"] });
      send(ask(0), [started], 0);
      ask(0).call.onEnd(end(reason));
      expect(ask(1).start.replicaId).toBe("r2");
      send(ask(1), [started, delta], 1);
      ask(1).call.onEnd(end(Reason.UNSPECIFIED, 1));
      expect(client.got).toEqual([started, delta]);
      expect(client.end).toEqual({ kind: "finished" });
      expect(settlements).toMatchObject([{ outcome: Outcome.COMPLETED, nodeId: "n-r2", attempts: 2 }]);
    },
  );

  test.each([
    { reason: Reason.NODE_LOST, attempts: 2 },
    { reason: Reason.DRAINING, attempts: 2 },
    { reason: Reason.ENGINE_FAILED, attempts: 1 },
  ])("once the budget for retries is spent, is dispatched $attempts times for reason $reason", (given) => {
    const { links, health, ask } = begin({ ready: ["r1", "r2"] });
    while (health.mayRetry("d"));
    ask(0).call.onEnd(end(given.reason));
    expect(links.starts).toHaveLength(given.attempts);
  });

  test.each([Reason.INVALID_REQUEST, Reason.CONTEXT_LENGTH_EXCEEDED, Reason.INTERNAL])(
    "does not go elsewhere for reason %i",
    (reason) => {
      const { links, settlements, client, ask } = begin({ ready: ["r1", "r2"] });
      ask(0).call.onEnd(end(reason));
      expect(client.end).toEqual(failed(reason));
      expect(links.starts).toHaveLength(1);
      expect(settlements).toMatchObject([{ outcome: Outcome.FAILED, attempts: 1 }]);
    },
  );

  test("does not go elsewhere after output has reached the client where moving is off", () => {
    const { links, client, ask } = begin({ ready: ["r1", "r2"], settings: { maxMoves: 0 } });
    send(ask(0), [started, delta], 1);
    ask(0).call.onEnd(end(Reason.NODE_LOST));
    expect(client.end).toEqual(failed(Reason.NODE_LOST));
    expect(links.starts).toHaveLength(1);
  });

  test("is dispatched at most as often as the setting says", () => {
    const { links, settlements, client, ask } = begin({ ready: ["r1", "r2", "r3"], settings: { maxAttempts: 2 } });
    ask(0).call.onEnd(end(Reason.ENGINE_FAILED));
    ask(1).call.onEnd(end(Reason.ENGINE_FAILED));
    expect(client.end).toEqual(failed(Reason.ENGINE_FAILED));
    expect(links.starts).toHaveLength(2);
    expect(settlements).toMatchObject([{ attempts: 2 }]);
  });

  test("fails at once as overloaded when every replica is full", () => {
    const { client, ask, settlements } = begin({ ready: ["r1"] });
    ask(0).call.onEnd(end(Reason.OVERLOADED));
    expect(client.end).toEqual(failed(Reason.OVERLOADED));
    expect(client.end).toMatchObject({ error: { retryAfterMs: 1_000 } });
    expect(settlements).toHaveLength(1);
  });

  test("waits for the engine of its only replica to come back", () => {
    const { clock, links, ask, settlements } = begin({ ready: ["r1"] });
    links.change();
    ask(0).call.onEnd(end(Reason.ENGINE_FAILED));
    clock.advance(4_000);
    expect(links.starts).toHaveLength(1);
    links.change("r1");
    ask(1).call.onEnd(end(Reason.UNSPECIFIED));
    expect(settlements).toMatchObject([{ outcome: Outcome.COMPLETED, attempts: 2, waitedMs: 4_000 }]);
  });

  test("pauses before it asks a replica again that says it is ready and fails", () => {
    const { clock, links, ask } = begin({ ready: ["r1"] });
    ask(0).call.onEnd(end(Reason.ENGINE_FAILED));
    expect(links.starts).toHaveLength(1);
    clock.advance(25);
    expect(links.starts).toHaveLength(2);
  });

  test("waits for a first replica, and gives up when the time for waiting is spent", () => {
    const patient = begin();
    patient.clock.advance(9_999);
    patient.links.change("r2");
    expect(patient.ask(0).start.replicaId).toBe("r2");

    const { clock, links, client, settlements } = begin();
    clock.advance(10_000);
    expect(client.end).toEqual(failed(Reason.NO_READY_REPLICA));
    expect(links.waiting).toBe(0);
    expect(clock.pendingTimers).toBe(0);
    expect(settlements).toMatchObject([{ outcome: Outcome.FAILED, nodeId: "", attempts: 0, waitedMs: 10_000 }]);
  });

  test("says at the deadline what it has waited for, if it has", () => {
    const { clock, client } = begin({ timeoutMs: 500 });
    clock.advance(500);
    expect(client.end).toEqual(failed(Reason.DEADLINE_EXCEEDED));
    expect(client.end).toMatchObject({
      error: { message: expect.stringMatching(/waited 500 ms .* "pocket" \(4 without a link\)/) },
    });
  });

  test("says of a deadline that had passed before it came that it had", () => {
    const { clock, client } = begin({ ready: ["r1"], timeoutMs: -3 });
    clock.advance(0);
    expect(client.end).toMatchObject({
      error: { reason: Reason.DEADLINE_EXCEEDED, message: expect.stringContaining("had passed when it came") },
    });
  });

  test("ends at the client's deadline, cancels the agent and counts what it had generated", () => {
    const { clock, client, ask, settlements, permits } = begin({ ready: ["r1"], timeoutMs: 500 });
    send(ask(0), [started, delta], 1);
    clock.advance(500);
    expect(client.end).toEqual(failed(Reason.DEADLINE_EXCEEDED));
    expect(ask(0).cancelled).toBe(true);
    expect(settlements).toHaveLength(0);
    ask(0).call.onEnd(end(Reason.CANCELLED, 4));
    expect(settlements).toMatchObject([
      { outcome: Outcome.FAILED, completionTokens: 4, error: { reason: Reason.DEADLINE_EXCEEDED } },
    ]);
    expect(permits.released).toBe(1);
  });

  test.each([
    [500, 450, Outcome.FAILED],
    [500, 390, Outcome.CANCELLED],
    [60, 31, Outcome.FAILED],
    [60, 29, Outcome.CANCELLED],
    [undefined, 450, Outcome.CANCELLED],
  ])("with %s ms to go whose client leaves after %s ms has outcome %s", (timeoutMs, afterMs, outcome) => {
    const { clock, call, ask, settlements } = begin({
      ready: ["r1"],
      ...(timeoutMs !== undefined && { timeoutMs }),
    });
    clock.advance(afterMs);
    call.abort();
    ask(0).call.onEnd(end(Reason.CANCELLED, 1));
    expect(settlements).toMatchObject([{ outcome }]);
  });

  test("that is aborted because the router drains fails as draining", () => {
    const { call, client, ask, settlements } = begin({ ready: ["r1"] });
    call.abort(new MeshError(Reason.DRAINING, "The router stops."));
    expect(client.end).toEqual(failed(Reason.DRAINING));
    ask(0).call.onEnd(end(Reason.CANCELLED, 1));
    expect(settlements).toMatchObject([{ outcome: Outcome.FAILED, error: { reason: Reason.DRAINING } }]);
  });

  test("that waits ends at its deadline too", () => {
    const { clock, client, settlements } = begin({ timeoutMs: 500 });
    clock.advance(500);
    expect(client.end).toEqual(failed(Reason.DEADLINE_EXCEEDED));
    expect(settlements).toHaveLength(1);
    expect(clock.pendingTimers).toBe(0);
  });

  test("whose client leaves is settled with the agent's count, or after a grace with its own", () => {
    const answered = begin({ ready: ["r1"] });
    send(answered.ask(0), [started, delta], 1);
    answered.call.abort();
    expect(answered.ask(0).cancelled).toBe(true);
    answered.ask(0).call.onEnd(end(Reason.CANCELLED, 2));
    expect(answered.settlements).toMatchObject([{ outcome: Outcome.CANCELLED, completionTokens: 2 }]);

    const silent = begin({ ready: ["r1"] });
    send(silent.ask(0), [started, delta], 1);
    silent.call.abort();
    silent.clock.advance(1_000);
    silent.ask(0).call.onEnd(end(Reason.CANCELLED, 2));
    expect(silent.settlements).toMatchObject([{ outcome: Outcome.CANCELLED, promptTokens: 7, completionTokens: 1 }]);
    expect(silent.clock.pendingTimers).toBe(0);
  });

  test("keeps what its client does not take, and gives it when the client goes on", () => {
    const { call, client, ask, settlements } = begin({ ready: ["r1"] });
    client.reads = false;
    send(ask(0), [started, delta], 1);
    send(ask(0), [delta], 1);
    ask(0).call.onEnd(end(Reason.UNSPECIFIED, 2));
    expect(client.got).toEqual([started]);
    expect(settlements).toMatchObject([{ outcome: Outcome.COMPLETED }]);
    client.reads = true;
    call.resume();
    expect(client.got).toEqual([started, delta, delta]);
    expect(client.end).toEqual({ kind: "finished" });
  });

  test("is cut when its client leaves more unread than the bound", () => {
    const { client, ask, settlements } = begin({ ready: ["r1"], settings: { maxBufferedBytes: 3 * delta.length } });
    client.reads = false;
    for (let step = 0; step < 5; step++) send(ask(0), [delta], 1);
    expect(ask(0).cancelled).toBe(true);
    expect(client.end).toEqual({ ...failed(Reason.RATE_LIMITED), kind: "cut" });
    ask(0).call.onEnd(end(Reason.CANCELLED, 5));
    expect(settlements).toMatchObject([{ outcome: Outcome.FAILED, completionTokens: 5 }]);
  });

  test("begins anew after output when its client gets the answer whole and it cannot move", () => {
    const { client, ask, settlements } = begin({ ready: ["r1", "r2"], settings: { maxMoves: 0 } });
    client.whole = true;
    send(ask(0), [started, delta, delta], 2);
    ask(0).call.onEnd(end(Reason.NODE_LOST));
    send(ask(1), [started, delta], 1);
    ask(1).call.onEnd(end(Reason.UNSPECIFIED));
    expect(client.got).toEqual([started, delta]);
    expect(client.end).toEqual({ kind: "finished" });
    expect(settlements).toMatchObject([{ outcome: Outcome.COMPLETED, attempts: 2, completionTokens: 1 }]);
  });

  test("does not call an answer incomplete that its client never saw", () => {
    const { client, ask } = begin({ ready: ["r1"], settings: { maxAttempts: 1, maxMoves: 0 } });
    client.whole = true;
    send(ask(0), [started, delta], 1);
    ask(0).call.onEnd(end(Reason.NODE_LOST));
    expect(client.end).toMatchObject({ kind: "failed", error: { message: "it failed." } });
  });

  test("that is aborted while it waits is settled as cancelled and dispatched nowhere", () => {
    const { call, client, links, settlements } = begin({ ready: [] });
    call.abort();
    links.change("r1");
    expect(links.starts).toHaveLength(0);
    expect(client.end).toEqual(failed(Reason.CANCELLED));
    expect(settlements).toMatchObject([{ outcome: Outcome.CANCELLED, attempts: 0 }]);
  });
});

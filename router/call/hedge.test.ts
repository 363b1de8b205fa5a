import { describe, expect, test } from "vitest";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { Outcome } from "#gen/helixmesh/type/v1/type_pb.ts";
import { begin, delta, end, failed, send, started } from "./test-call.ts";

const routing = { hedgeAfterMs: 100 };

describe("a hedged call", () => {
  test("asks a second replica when no token came in time; the first to bring one answers, the other is stopped", async () => {
    const { clock, client, ask, settlements, metrics } = begin({ ready: ["r1", "r2"], routing });
    send(ask(0), [started], 0);
    clock.advance(100);
    expect(ask(1).start).toMatchObject({ replicaId: "r2", relayed: [] });
    send(ask(1), [started], 0);
    send(ask(1), [delta], 1);
    expect(ask(0).cancelled).toBe(true);
    send(ask(0), [delta], 1);
    ask(0).call.onEnd(end(Reason.CANCELLED, 9));
    send(ask(1), [delta], 1);
    ask(1).call.onEnd(end(Reason.UNSPECIFIED, 2));
    expect(client.got).toEqual([started, delta, delta]);
    expect(client.end).toEqual({ kind: "finished" });
    expect(settlements).toMatchObject([
      { outcome: Outcome.COMPLETED, nodeId: "n-r2", completionTokens: 2, attempts: 2, moves: 0 },
    ]);
    expect(await metrics.text()).toMatch(/router_hedges_total\{deployment="d",result="won"[^}]*\} 1/);
    expect(clock.pendingTimers).toBe(0);
  });

  test("keeps its first replica when that is the faster one", async () => {
    const { clock, client, ask, metrics, settlements } = begin({ ready: ["r1", "r2"], routing });
    clock.advance(100);
    send(ask(0), [started, delta], 1);
    expect(ask(1).cancelled).toBe(true);
    ask(0).call.onEnd(end(Reason.UNSPECIFIED, 1));
    ask(1).call.onEnd(end(Reason.CANCELLED, 1));
    expect(client.got).toEqual([started, delta]);
    expect(settlements).toMatchObject([{ nodeId: "n-r1", completionTokens: 1 }]);
    expect(await metrics.text()).toMatch(/router_hedges_total\{deployment="d",result="lost"[^}]*\} 1/);
  });

  test("asks no second replica once a token has come, or where the deployment does not want it", () => {
    const early = begin({ ready: ["r1", "r2"], routing });
    send(early.ask(0), [started, delta], 1);
    early.clock.advance(1_000);
    expect(early.links.starts).toHaveLength(1);
    const plain = begin({ ready: ["r1", "r2"] });
    plain.clock.advance(1_000);
    expect(plain.links.starts).toHaveLength(1);
  });

  test("stays with the other replica when one of them fails", () => {
    const { clock, client, ask, links } = begin({ ready: ["r1", "r2", "r3"], routing });
    clock.advance(100);
    ask(0).call.onEnd(end(Reason.NODE_LOST));
    expect(links.starts).toHaveLength(2);
    send(ask(1), [started, delta], 1);
    ask(1).call.onEnd(end(Reason.UNSPECIFIED, 1));
    expect(client.got).toEqual([started, delta]);
  });

  test("begins again when both fail", () => {
    const { clock, client, ask } = begin({ ready: ["r1", "r2", "r3"], routing });
    clock.advance(100);
    ask(0).call.onEnd(end(Reason.NODE_LOST));
    ask(1).call.onEnd(end(Reason.NODE_LOST));
    expect(ask(2).start.replicaId).toBe("r3");
    ask(2).call.onEnd(end(Reason.NODE_LOST));
    expect(client.end).toEqual(failed(Reason.NODE_LOST));
  });

  test("stops both when its client leaves, and is settled with the first one's count", () => {
    const { clock, call, ask, settlements } = begin({ ready: ["r1", "r2"], routing });
    clock.advance(100);
    call.abort();
    expect([ask(0).cancelled, ask(1).cancelled]).toEqual([true, true]);
    ask(1).call.onEnd(end(Reason.CANCELLED, 5));
    expect(settlements).toHaveLength(0);
    ask(0).call.onEnd(end(Reason.CANCELLED, 3));
    expect(settlements).toMatchObject([{ outcome: Outcome.CANCELLED, completionTokens: 3 }]);
  });

  test("can move after its first token like any other", () => {
    const { clock, client, ask } = begin({ ready: ["r1", "r2", "r3"], routing });
    clock.advance(100);
    send(ask(1), [started, delta], 1);
    ask(1).call.onEnd(end(Reason.NODE_LOST));
    expect(ask(2).start.relayed).toEqual([started, delta]);
    send(ask(2), [delta], 1);
    expect(client.got).toEqual([started, delta, delta]);
  });

  test("is not hedged where no replica has room for it, which is counted", async () => {
    const { clock, links, metrics } = begin({ ready: ["r1", "r2"], routing });
    links.full.add("r2");
    clock.advance(100);
    expect(links.starts).toHaveLength(1);
    expect(await metrics.text()).toMatch(/router_hedges_refused_total\{deployment="d",why="saturated"[^}]*\} 1/);
  });
});

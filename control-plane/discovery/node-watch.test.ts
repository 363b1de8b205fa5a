import { create } from "@bufbuild/protobuf";
import { describe, expect, test } from "vitest";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { WatchDesiredStateResponseSchema } from "#gen/helixmesh/node/v1/node_pb.ts";
import { ManualClock } from "#kernel/clock.ts";
import { Metrics } from "#kernel/metrics.ts";
import { NodeWatch } from "./node-watch.ts";

function start() {
  const clock = new ManualClock();
  const watch = new NodeWatch({ clock, metrics: new Metrics("test"), signOfLifeMs: 15_000 });
  return { clock, watch, abort: new AbortController() };
}

function desired(...replicaIds: string[]) {
  return create(WatchDesiredStateResponseSchema, { replicas: replicaIds.map((replicaId) => ({ replicaId })) });
}

describe("a watch of desired state", () => {
  test("begins at once and repeats itself every 15 seconds", async () => {
    const { watch, clock, abort } = start();
    watch.update(new Map([["n", desired("r")]]));
    const stream = watch.watch("n", abort.signal);
    expect((await stream.next()).value).toEqual(desired("r"));
    const again = stream.next();
    clock.advance(15_000);
    expect((await again).value).toEqual(desired("r"));
  });

  test("gives a slow reader only the newest state", async () => {
    const { watch, abort } = start();
    watch.update(new Map([["n", desired("r1")]]));
    const stream = watch.watch("n", abort.signal);
    await stream.next();
    watch.update(new Map([["n", desired("r1", "r2")]]));
    watch.update(new Map([["n", desired("r3")]]));
    expect((await stream.next()).value).toEqual(desired("r3"));
  });

  test("stays quiet when other nodes change", async () => {
    const { watch, abort, clock } = start();
    watch.update(new Map([["n", desired("r")]]));
    const stream = watch.watch("n", abort.signal);
    await stream.next();
    const next = stream.next();
    watch.update(
      new Map([
        ["n", desired("r")],
        ["other", desired()],
      ]),
    );
    expect(await Promise.race([next, Promise.resolve("quiet")])).toBe("quiet");
    clock.advance(15_000);
    await next;
  });

  test("never tells a node that is not known to run nothing: it waits, then ends with NOT_FOUND", async () => {
    const { watch, abort, clock } = start();
    watch.update(new Map());
    const patient = watch.watch("n", abort.signal);
    const first = patient.next();
    watch.update(new Map([["n", desired("r")]]));
    expect((await first).value).toEqual(desired("r"));
    const second = patient.next();
    watch.update(new Map());
    await expect(second).rejects.toMatchObject({ reason: Reason.NOT_FOUND });

    const hopeless = watch.watch("m", abort.signal).next();
    clock.advance(15_000);
    await expect(hopeless).rejects.toMatchObject({ reason: Reason.NOT_FOUND });
  });
});

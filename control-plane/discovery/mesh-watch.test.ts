import { create } from "@bufbuild/protobuf";
import { describe, expect, test } from "vitest";
import { ModelSchema } from "#gen/helixmesh/discovery/v1/discovery_pb.ts";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { ManualClock } from "#kernel/clock.ts";
import { Metrics } from "#kernel/metrics.ts";
import { type MeshState, emptyMeshState } from "./mesh-state.ts";
import { MeshWatch } from "./mesh-watch.ts";

function start(queueLimit = 3) {
  const clock = new ManualClock();
  const metrics = new Metrics("test");
  const watch = new MeshWatch({ clock, metrics, queueLimit, signOfLifeMs: 15_000 });
  return { clock, metrics, watch, abort: new AbortController() };
}

function withModels(...names: string[]): MeshState {
  return { ...emptyMeshState, models: names.map((name) => create(ModelSchema, { name })) };
}

describe("a watch", () => {
  test("waits for the first state and begins with it", async () => {
    const { watch, abort } = start();
    const stream = watch.watch(abort.signal);
    const first = stream.next();
    watch.update(withModels("a"), 40n);
    expect((await first).value).toMatchObject({
      update: { case: "snapshot", value: { version: 40n, models: [{ name: "a" }] } },
    });
  });

  test("gets each later change once, in order, with versions that follow", async () => {
    const { watch, abort } = start();
    watch.update(withModels("a"), 40n);
    const stream = watch.watch(abort.signal);
    await stream.next();
    watch.update(withModels("a", "b"), 55n);
    watch.update(withModels("a", "b"), 56n);
    watch.update(withModels("b"), 57n);
    expect((await stream.next()).value).toMatchObject({
      update: { case: "delta", value: { version: 41n, upserts: { models: [{ name: "b" }] } } },
    });
    expect((await stream.next()).value).toMatchObject({
      update: { case: "delta", value: { version: 42n, removedModels: ["a"] } },
    });
  });

  test("hears an empty delta of the present version when nothing happens for 15 seconds", async () => {
    const { watch, abort, clock } = start();
    watch.update(withModels("a"), 1n);
    const stream = watch.watch(abort.signal);
    await stream.next();
    const next = stream.next();
    clock.advance(15_000);
    const { value } = await next;
    expect(value?.update).toMatchObject({ case: "delta", value: { version: 1n, removedModels: [] } });
    expect(value?.update.value?.$typeName).toBe("helixmesh.discovery.v1.Delta");
  });

  test("that reads too slowly is ended, not skipped", async () => {
    const { watch, abort, metrics } = start(2);
    watch.update(withModels(), 1n);
    const slow = watch.watch(abort.signal);
    await slow.next();
    for (const name of ["a", "b", "c"]) watch.update(withModels(name), 1n);
    await expect(slow.next()).rejects.toMatchObject({ reason: Reason.OVERLOADED, limit: "2 deltas" });
    expect(await metrics.text()).toContain('helixmesh_watch_overflows_total{service="test"} 1');
  });

  test("ends without an error when its caller goes, and leaves nothing behind", async () => {
    const { watch, abort, clock, metrics } = start();
    watch.update(withModels(), 1n);
    const stream = watch.watch(abort.signal);
    await stream.next();
    const next = stream.next();
    abort.abort();
    expect(await next).toEqual({ done: true, value: undefined });
    expect(clock.pendingTimers).toBe(0);
    expect(await metrics.text()).toContain('helixmesh_watchers{kind="router",service="test"} 0');
  });

  test("ends with DRAINING when the control plane stops", async () => {
    const { watch, abort } = start();
    watch.update(withModels(), 1n);
    const stream = watch.watch(abort.signal);
    await stream.next();
    const next = stream.next();
    watch.close();
    await expect(next).rejects.toMatchObject({ reason: Reason.DRAINING });
  });
});

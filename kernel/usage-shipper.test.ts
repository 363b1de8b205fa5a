import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { create, fromBinary } from "@bufbuild/protobuf";
import { afterEach, beforeEach, expect, test } from "vitest";
import { UsageRecordSchema } from "#gen/helixmesh/type/v1/type_pb.ts";
import { ManualClock } from "#kernel/clock.ts";
import { silentLogger } from "#kernel/log.ts";
import { Metrics } from "#kernel/metrics.ts";
import { seededRandom } from "#kernel/random.ts";
import { type Spool, openSpool } from "#kernel/spool.ts";
import { type UsageShipper, startUsageShipper } from "#kernel/usage-shipper.ts";

let dir = "";
let clock = new ManualClock();
let metrics = new Metrics("test");
let shipped: string[][] = [];
let fail = 0;
/** What a batch that is on its way waits for. */
let road = Promise.resolve();
const cleanups: (() => Promise<void>)[] = [];

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), "helixmesh-usage-"));
  clock = new ManualClock();
  shipped = [];
  fail = 0;
  road = Promise.resolve();
});
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
  await rm(dir, { recursive: true });
});

async function start(maxBytes = 10_000_000): Promise<{ shipper: UsageShipper; spool: Spool }> {
  const spool = await openSpool({ dir, maxBytes, segmentBytes: 1_000_000, logger: silentLogger });
  const ship = async (records: readonly Uint8Array[]) => {
    if (fail-- > 0) throw new Error("the ledger is away");
    shipped.push(records.map((record) => fromBinary(UsageRecordSchema, record).callId));
    await road;
  };
  const random = seededRandom(1);
  metrics = new Metrics("test");
  const shipper = startUsageShipper({
    lingerMs: 100,
    spool,
    ship,
    clock,
    random,
    logger: silentLogger,
    metrics,
  });
  cleanups.push(
    () => spool.close(),
    () => shipper.close(),
  );
  return { shipper, spool };
}

/** A batch of one record is on its way until `arrive`. */
async function startAndShip(callId: string): Promise<Awaited<ReturnType<typeof start>> & { arrive: () => void }> {
  const started = await start();
  const { promise, resolve } = Promise.withResolvers<void>();
  road = promise;
  started.shipper.record(usage(callId));
  clock.advance(100);
  await expect.poll(() => shipped).toEqual([[callId]]);
  return { ...started, arrive: resolve };
}

const usage = (callId: string) => create(UsageRecordSchema, { callId });

test("ships what was recorded after the linger, as one batch", async () => {
  const { shipper } = await start();
  shipper.record(usage("a"));
  shipper.record(usage("b"));
  clock.advance(99);
  expect(shipped).toEqual([]);
  clock.advance(1);
  await expect.poll(() => shipped).toEqual([["a", "b"]]);
});

test("what comes while a batch is on its way waits for its own linger", async () => {
  const { shipper, spool, arrive } = await startAndShip("a");
  shipper.record(usage("b"));
  clock.advance(99);
  arrive();
  await expect.poll(() => spool.size().records).toBe(1);
  shipper.record(usage("c"));
  expect(shipped).toEqual([["a"]]);
  clock.advance(1);
  await expect.poll(() => shipped).toEqual([["a"], ["b", "c"]]);
});

test("what has waited long enough while a batch is on its way is the next one", async () => {
  const { shipper, arrive } = await startAndShip("a");
  shipper.record(usage("b"));
  clock.advance(100);
  arrive();
  await expect.poll(() => shipped).toEqual([["a"], ["b"]]);
});

test("ships at once when flushed", async () => {
  const { shipper, spool } = await start();
  shipper.record(usage("a"));
  await shipper.flush(1_000);
  expect(shipped).toEqual([["a"]]);
  expect(spool.size().records).toBe(0);
});

test("sends at most 1,000 records at once", async () => {
  const { shipper } = await start();
  for (let call = 0; call < 2_500; call++) shipper.record(usage(`${call}`));
  await shipper.flush(1_000);
  expect(shipped.map((batch) => batch.length)).toEqual([1_000, 1_000, 500]);
  expect(new Set(shipped.flat()).size).toBe(2_500);
});

test("keeps a batch that was refused and sends it again after a back-off", async () => {
  fail = 1;
  const { shipper, spool } = await start();
  shipper.record(usage("a"));
  const flushed = shipper.flush(60_000);
  await expect.poll(() => metrics.text()).toContain('helixmesh_usage_ship_failures_total{service="test"} 1');
  expect(spool.size().records).toBe(1);
  // The flush's own deadline and the back-off.
  await expect.poll(() => clock.pendingTimers).toBe(2);
  clock.advance(200);
  await flushed;
  expect(shipped).toEqual([["a"]]);
});

test("cuts a back-off short when flushed", async () => {
  fail = 1;
  const { shipper } = await start();
  shipper.record(usage("a"));
  clock.advance(100);
  await expect.poll(() => clock.pendingTimers).toBe(1);
  await shipper.flush(60_000);
  expect(shipped).toEqual([["a"]]);
});

test("gives up a flush at its deadline and leaves the records on disk for the next process", async () => {
  fail = 1_000;
  const { shipper, spool } = await start();
  shipper.record(usage("a"));
  const flushed = shipper.flush(100);
  // The flush's own deadline and the back-off.
  await expect.poll(() => clock.pendingTimers).toBe(2);
  clock.advance(100);
  await flushed;
  await shipper.close();
  await spool.close();
  fail = 0;
  const second = await start();
  await second.shipper.flush(1_000);
  expect(shipped).toEqual([["a"]]);
});

test("ships at its start what an earlier process left", async () => {
  const left = await start();
  left.shipper.record(usage("a"));
  await left.spool.flush();
  await left.shipper.close();
  await left.spool.close();
  await start();
  await expect.poll(() => shipped).toEqual([["a"]]);
});

test("counts and logs a record that finds no room", async () => {
  const { shipper } = await start(20);
  shipper.record(usage("call-a"));
  shipper.record(usage("call-b"));
  expect(await metrics.text()).toContain('helixmesh_usage_records_dropped_total{service="test"} 1');
});

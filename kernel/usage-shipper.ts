import { fromBinary } from "@bufbuild/protobuf";
import { UsageRecordSchema } from "#gen/helixmesh/type/v1/type_pb.ts";
import { Backoff } from "#kernel/backoff.ts";
import { type Clock, sleep } from "#kernel/clock.ts";
import type { Logger } from "#kernel/log.ts";
import type { Metrics } from "#kernel/metrics.ts";
import type { Random } from "#kernel/random.ts";
import type { Spool } from "#kernel/spool.ts";
import { type UsageFields, encodeUsageRecord } from "#kernel/usage-record.ts";

export interface UsageShipperOptions {
  readonly spool: Spool;
  /**
   * Encoded UsageRecords, as `encodedMessages` takes them. Resolves once the ledger has them; rejects otherwise, and they
   * come again. Must end: `close` waits for it.
   */
  readonly ship: (records: readonly Uint8Array[]) => Promise<void>;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  readonly metrics: Metrics;
  /** How long a record may wait for others before it is shipped. Default 500. */
  readonly lingerMs?: number;
}

export interface UsageShipper {
  /** On disk soon after; never throws. */
  record(record: UsageFields): void;
  /** Tries at once. Resolves when all that was recorded is shipped, or after `timeoutMs`; what is left stays on disk. */
  flush(timeoutMs: number): Promise<void>;
  /** Stops shipping; what is left is on disk for the next process. Does not close the spool. */
  close(): Promise<void>;
}

const largestBatch = 1_000;

/** Sends usage records at least once and in order: one batch in flight, forgotten only after its answer. */
export function startUsageShipper(options: UsageShipperOptions): UsageShipper {
  const { spool, clock, random, logger, metrics, lingerMs = 500 } = options;
  const shipped = metrics.counter("usage_records_shipped_total", "Usage records that the ledger acknowledged.");
  const failed = metrics.counter("usage_ship_failures_total", "Batches of usage records that were refused.");
  const dropped = metrics.counter("usage_records_dropped_total", "Usage records lost because the spool was full.");
  const help = "Usage records on disk that the ledger has not.";
  metrics.follow("usage_records_waiting", help, () => spool.size().records);
  const backoff = new Backoff({ initialMs: 200, maxMs: 30_000 }, random);
  const stop = new AbortController();
  let wake = new AbortController();
  /** Cuts a back-off short. */
  let hurry = new AbortController();
  let lingerTimer: { cancel(): void } | undefined;
  /** Somebody has waited long enough: at first whatever an earlier process left. */
  let due = true;
  /** Those who wait until nothing is left. */
  const idle = new Set<() => void>();

  spool.onFull((bytes) => {
    dropped.inc();
    const { callId, model, usage } = fromBinary(UsageRecordSchema, bytes);
    // The log is the last place that can still know what was used.
    logger.error("usage spool is full; a record is lost", { callId, model, usage: usage && { ...usage } });
  });

  function wakeUp(): void {
    lingerTimer?.cancel();
    lingerTimer = undefined;
    due = true;
    wake.abort();
  }

  async function run(): Promise<void> {
    while (!stop.signal.aborted) {
      wake = new AbortController();
      const { records } = spool.size();
      if (records === 0) {
        for (const resolve of idle) resolve();
        idle.clear();
      }
      if (records === 0 || (!due && records < largestBatch && idle.size === 0)) {
        await aborted(AbortSignal.any([wake.signal, stop.signal]));
        continue;
      }
      due = false;
      try {
        const batch = await spool.peek(largestBatch);
        // Without this a file that somebody damaged would make a loop without a pause.
        if (batch.records.length === 0) throw new Error("the spool counts records that it cannot read");
        await options.ship(batch.records);
        await batch.commit();
        shipped.inc(batch.records.length);
        backoff.reset();
      } catch (error) {
        failed.inc();
        due = true;
        const delayMs = backoff.nextMs();
        logger.warn("usage is not shipped; it stays on disk", {
          ...spool.size(),
          retryInMs: Math.round(delayMs),
          error,
        });
        hurry = new AbortController();
        await sleep(clock, delayMs, AbortSignal.any([hurry.signal, stop.signal]));
      }
    }
  }

  const running = run();

  return {
    record(record) {
      spool.append(encodeUsageRecord(record));
      lingerTimer ??= clock.setTimer(lingerMs, wakeUp, { unref: true });
    },
    async flush(timeoutMs) {
      await spool.flush();
      if (spool.size().records === 0) return;
      const done = Promise.withResolvers<void>();
      idle.add(done.resolve);
      const timer = clock.setTimer(timeoutMs, done.resolve);
      wakeUp();
      hurry.abort();
      await done.promise;
      timer.cancel();
      idle.delete(done.resolve);
    },
    async close() {
      stop.abort();
      lingerTimer?.cancel();
      await running;
      await spool.flush();
    },
  };
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve(), { once: true });
  });
}

import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { create } from "@bufbuild/protobuf";
import type { Client } from "@connectrpc/connect";
import { type DiscoveryService, ReportUsageRequestSchema } from "#gen/helixmesh/discovery/v1/discovery_pb.ts";
import type { Clock } from "#kernel/clock.ts";
import type { Logger } from "#kernel/log.ts";
import { Metrics } from "#kernel/metrics.ts";
import type { Random } from "#kernel/random.ts";
import { openSpool } from "#kernel/spool.ts";
import { encodedMessages } from "#kernel/usage-record.ts";
import { type UsageShipper, startUsageShipper } from "#kernel/usage-shipper.ts";

export interface UsageOptions {
  readonly client: Client<typeof DiscoveryService>;
  readonly routerId: string;
  readonly stateDir: string;
  /** Disk that unshipped records may take. */
  readonly maxBytes: number;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  readonly metrics: Metrics;
}

const shipTimeoutMs = 30_000;

/** Of a router's state folder. */
export function workerFolder(worker: number): string {
  return `worker-${worker}`;
}

/** Usage that a run with other --workers left behind; shipped until it is closed. */
export async function openLeftUsage(
  options: UsageOptions & { readonly workers: number },
): Promise<readonly UsageShipper[]> {
  const { stateDir, workers, logger } = options;
  const inUse = new Set(workers === 1 ? ["usage"] : Array.from({ length: workers }, (_, at) => workerFolder(at + 1)));
  const left = (await readdir(stateDir)).filter((name) => /^(usage|worker-[0-9]+)$/.test(name) && !inUse.has(name));
  if (left.length > 0) logger.info("usage of an earlier run with other --workers is shipped", { folders: left });
  return Promise.all(
    left.map((name) => {
      // Their counts are not those of this process.
      const metrics = new Metrics("router");
      return openUsage({ ...options, metrics, stateDir: name === "usage" ? stateDir : join(stateDir, name) });
    }),
  );
}

/** What this router relayed: on disk until the control plane has it. */
export async function openUsage(options: UsageOptions): Promise<UsageShipper> {
  const { client, routerId, clock, random, logger, metrics } = options;
  const dir = join(options.stateDir, "usage");
  const spool = await openSpool({ dir, maxBytes: options.maxBytes, segmentBytes: 8 * 1024 * 1024, logger });
  const shipper = startUsageShipper({
    spool,
    async ship(records) {
      const request = create(ReportUsageRequestSchema, { routerId });
      request.$unknown = encodedMessages(ReportUsageRequestSchema.field.records.number, records);
      await client.reportUsage(request, { timeoutMs: shipTimeoutMs });
    },
    clock,
    random,
    logger,
    metrics,
  });
  return {
    ...shipper,
    async close() {
      await shipper.close();
      await spool.close();
    },
  };
}

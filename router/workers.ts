import cluster from "node:cluster";
import { join } from "node:path";
import { startAdminServer } from "#kernel/admin-server.ts";
import { listenError } from "#kernel/listen-error.ts";
import { makeFolder } from "#kernel/make-folder.ts";
import { Metrics } from "#kernel/metrics.ts";
import type { RunningService, ServiceParts, ServiceSettings } from "#kernel/run-service.ts";
import { supervise, type Supervised } from "#kernel/supervise.ts";
import { workersMetrics } from "#kernel/workers-metrics.ts";
import type { routerSettings } from "./settings.ts";

interface WorkerAddress {
  readonly url: string;
  readonly adminUrl: string;
}

/** What a worker's drain takes at most beyond the waits that are settings. */
const drainSlackMs = 10_000;

/**
 * A router as several processes: each is a whole router with links, a state folder and usage of its own, and they share
 * the port: whoever is free takes the next connection. This process has the admin port, with the sums of their
 * metrics, and starts a worker again that died: its calls are lost, the others go on.
 */
export async function serveWorkers(
  settings: ServiceSettings<typeof routerSettings>,
  parts: ServiceParts,
): Promise<RunningService> {
  const { clock, random, logger } = parts;
  await makeFolder(settings.stateDir, 0o700);
  // Not in turn, node:cluster's own way: then every connection passes through this process, and one that is handed to a
  // worker that has just died is neither answered nor closed (measured: 12 of 100 that came right after a kill hung for
  // ever, and none this way). The price: of 256 connections to four idle workers, one may have 7 and another 108.
  cluster.schedulingPolicy = cluster.SCHED_NONE;
  cluster.setupPrimary({ exec: join(import.meta.dirname, "main.ts"), args: process.argv.slice(2) });
  // Beside the sums of the workers' metrics, in the same page.
  const own = new Metrics("router");
  const up = own.gauge("router_workers", "Worker processes that are up.");
  const exits = own.counter("router_worker_exits_total", "Worker processes that ended and were started again.");
  const addresses = new Map<number, WorkerAddress>();
  const changed = (): void => up.set(addresses.size);
  const workers: Supervised[] = [];
  let draining = false;

  async function stopWorkers(): Promise<void> {
    draining = true;
    const { drainTimeoutMs, cancelGraceMs, usageFlushTimeoutMs } = settings;
    const patienceMs = drainTimeoutMs + cancelGraceMs + usageFlushTimeoutMs + drainSlackMs;
    await Promise.all(workers.map((worker) => worker.stop("SIGTERM", patienceMs)));
  }

  /** Resolves when it is up for the first time, and rejects when it ends before. */
  function start(number: number): Promise<WorkerAddress> {
    const first = Promise.withResolvers<WorkerAddress>();
    workers.push(
      supervise({
        name: `router worker ${number}`,
        start() {
          // What this process tells whoever started it is not the workers' to tell.
          const child = cluster.fork({ HELIXMESH_ROUTER_WORKER: number, HELIXMESH_READY_FD: "" }).process;
          child.on("message", (message) => {
            const address = readyAddress(message);
            if (!address) return;
            addresses.set(number, address);
            changed();
            logger.info("worker started", { worker: number, workerPid: child.pid });
            first.resolve(address);
          });
          return child;
        },
        backoff: { initialMs: 100, maxMs: 5_000 },
        clock,
        logger,
        random,
        onExit({ code, signal }) {
          addresses.delete(number);
          changed();
          exits.inc();
          first.reject(new Error(`Worker ${number} ended with ${signal ?? `exit code ${code}`}; its log says why.`));
        },
      }),
    );
    return first.promise;
  }

  const shared = workersMetrics();
  const admin = await startAdminServer({
    host: settings.adminHost,
    port: settings.adminPort,
    metrics: {
      contentType: shared.contentType,
      text: async () => (await Promise.all([shared.text(), own.text()])).join("\n"),
    },
    ready: () => (draining ? "draining" : unready([...addresses.values()])),
    logger,
  }).catch((error: unknown) => {
    throw listenError(error, settings.adminPort, "--admin-port");
  });
  try {
    const all = await Promise.all(Array.from({ length: settings.workers }, (_, at) => start(at + 1)));
    return {
      url: all[0]?.url ?? "",
      adminUrl: `http://${settings.adminHost === "0.0.0.0" ? "127.0.0.1" : settings.adminHost}:${admin.port}`,
      async drain() {
        await stopWorkers();
        await admin.close();
      },
    };
  } catch (error) {
    await stopWorkers();
    await admin.close();
    throw error;
  }
}

/** Ready as soon as one worker is; a worker that cannot answer yet refuses its calls as a router alone would. */
async function unready(workers: readonly WorkerAddress[]): Promise<string | undefined> {
  let why = "no worker is up";
  for (const { adminUrl } of workers) {
    const response = await fetch(`${adminUrl}/readyz`).catch(() => undefined);
    if (response?.ok) return undefined;
    if (response) why = (await response.text()).trim();
  }
  return why;
}

function readyAddress(message: unknown): WorkerAddress | undefined {
  if (typeof message !== "object" || message === null || !("type" in message) || message.type !== "ready") {
    return undefined;
  }
  if (!("url" in message) || !("adminUrl" in message)) return undefined;
  const { url, adminUrl } = message;
  return typeof url === "string" && typeof adminUrl === "string" ? { url, adminUrl } : undefined;
}

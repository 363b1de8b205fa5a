import type { ConnectRouter } from "@connectrpc/connect";
import {
  DeploymentService,
  KeyService,
  ModelService,
  NodeAdminService,
  UsageService,
} from "#gen/helixmesh/control/v1/control_pb.ts";
import { DiscoveryService } from "#gen/helixmesh/discovery/v1/discovery_pb.ts";
import { NodeService } from "#gen/helixmesh/node/v1/node_pb.ts";
import { startAdminServer } from "#kernel/admin-server.ts";
import { listenError } from "#kernel/listen-error.ts";
import type { RunningService, ServiceParts } from "#kernel/run-service.ts";
import { startRpcServer } from "#kernel/rpc-server.ts";
import type { SettingsOf } from "#kernel/settings.ts";
import { loadTls } from "#kernel/tls.ts";
import { authenticate } from "./api/authenticate.ts";
import { databaseErrors, withDatabaseErrors } from "./api/database-errors.ts";
import { deploymentService } from "./api/deployments.ts";
import { discoveryService } from "./api/discovery-service.ts";
import { keyService } from "./api/keys.ts";
import { modelService } from "./api/models.ts";
import { nodeService } from "./api/node-service.ts";
import { nodeAdminService } from "./api/nodes.ts";
import { usageService } from "./api/usage.ts";
import { coalesce } from "./discovery/coalesce.ts";
import { Discovery } from "./discovery/discovery.ts";
import { createKeyAuthenticator } from "./keys/authenticate.ts";
import { createLedger } from "./ledger/ledger.ts";
import { Leases } from "./nodes/leases.ts";
import { loadLinkSecret } from "./nodes/link-token.ts";
import { Reconciler } from "./placement/reconcile.ts";
import type { controlPlaneSettings } from "./settings.ts";
import type { Database } from "./store/database.ts";

/** Streams send something at least this often, as node.proto and discovery.proto promise. */
const signOfLifeMs = 15_000;
/** A burst of changes is read once; routers still hear of it within a tenth of a second. */
const refreshGapMs = 20;
const reconcileGapMs = 50;
/** Tables whose changes placement answers to. */
const placementTables = new Set(["*", "deployments", "nodes", "replicas", "model_versions"]);

/**
 * Everything between a migrated database and open ports. What is started is closed in reverse order, by `drain` or
 * because a later part could not start; the database stays open.
 */
export async function serve(
  database: Database,
  settings: SettingsOf<typeof controlPlaneSettings>,
  parts: Omit<ServiceParts, "crash" | "random">,
): Promise<Required<RunningService>> {
  const { sql } = database;
  const { clock, logger, metrics } = parts;
  const { leaseMs, heartbeatIntervalMs, offlineGraceMs } = settings;
  const tls = loadTls({ certPath: settings.tlsCert, keyPath: settings.tlsKey });
  await using started = new AsyncDisposableStack();

  const linkSecret = await loadLinkSecret(sql);
  const discovery = new Discovery({ ...parts, sql, linkSecret, queueLimit: settings.watchQueueLimit, signOfLifeMs });
  const reconciler = new Reconciler({ ...parts, sql, leaseMs, offlineGraceMs });
  const leases = new Leases(sql, leaseMs);
  const ledger = createLedger({ database, clock, logger, metrics });

  let unready: string | undefined = "starting";
  const admin = await startAdminServer({
    host: settings.adminHost,
    port: settings.adminPort,
    metrics,
    ready: () => unready ?? discovery.failure,
    logger,
  }).catch((error: unknown) => {
    throw listenError(error, settings.adminPort, "--admin-port");
  });
  started.defer(() => admin.close());

  const keys = await createKeyAuthenticator({ database, clock });
  started.defer(() => keys.close());

  const refreshes = coalesce({
    clock,
    run: () => discovery.refresh(),
    minGapMs: refreshGapMs,
    intervalMs: settings.refreshIntervalMs,
  });
  started.defer(() => refreshes.close());
  const reconciles = coalesce({
    clock,
    run: async () => void (await reconciler.run()),
    minGapMs: reconcileGapMs,
    intervalMs: settings.reconcileIntervalMs,
  });
  started.defer(() => reconciles.close());
  const stopListening = await database.onChanged((table) => {
    refreshes.trigger();
    if (placementTables.has(table)) reconciles.trigger();
  });
  started.defer(stopListening);
  await discovery.refresh();
  reconciles.trigger();

  function routes(router: ConnectRouter): void {
    router.service(ModelService, modelService(sql, clock));
    router.service(DeploymentService, deploymentService(sql));
    router.service(NodeAdminService, nodeAdminService(sql));
    router.service(KeyService, keyService(sql, clock));
    router.service(UsageService, usageService(ledger));
    router.service(DiscoveryService, discoveryService({ watch: discovery.mesh, ledger }));
    router.service(
      NodeService,
      nodeService({ sql, leases, watch: discovery.nodes, ledger, linkSecret, leaseMs, heartbeatIntervalMs, logger }),
    );
  }
  const server = await startRpcServer({
    host: settings.host,
    port: settings.port,
    tls,
    routes,
    services: [
      ModelService,
      DeploymentService,
      NodeAdminService,
      KeyService,
      UsageService,
      DiscoveryService,
      NodeService,
    ],
    health: () => discovery.failure === undefined,
    authorize: withDatabaseErrors(authenticate(sql, keys), logger),
    interceptors: [databaseErrors(logger)],
    maxBodyBytes: settings.maxBodyBytes,
    logger,
    metrics,
  }).catch((error: unknown) => {
    throw listenError(error, settings.port, "--port");
  });
  started.defer(() => server.drain(settings.drainMs));
  // Watches never end by themselves; without this a drain would wait for them in vain.
  started.defer(() => discovery.close());

  unready = undefined;
  const running = started.move();
  return {
    url: `${tls ? "https" : "http"}://${urlHost(settings.host)}:${server.port}`,
    adminUrl: `http://${urlHost(settings.adminHost)}:${admin.port}`,
    async drain() {
      unready = "draining";
      await running.disposeAsync();
    },
  };
}

/** An address to connect to, where the service listens on all of them. */
function urlHost(host: string): string {
  if (host === "0.0.0.0" || host === "::") return "127.0.0.1";
  return host.includes(":") ? `[${host}]` : host;
}

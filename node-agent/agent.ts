import { hostname } from "node:os";
import { join } from "node:path";
import { LinkService } from "#gen/helixmesh/link/v1/link_pb.ts";
import { startAdminServer } from "#kernel/admin-server.ts";
import { newId } from "#kernel/random.ts";
import { rpcErrors } from "#kernel/rpc-errors.ts";
import { startRpcServer } from "#kernel/rpc-server.ts";
import type { RunningService, ServiceParts } from "#kernel/run-service.ts";
import type { SettingsOf } from "#kernel/settings.ts";
import { openSpool } from "#kernel/spool.ts";
import { loadTls } from "#kernel/tls.ts";
import { startUsageShipper } from "#kernel/usage-shipper.ts";
import { CallMetrics, createCallRunner } from "./call/index.ts";
import { ControlLink, StateFile } from "./control/index.ts";
import { engineFor } from "./engines/create-engine.ts";
import type { PrefixNews } from "./engines/prefix-news.ts";
import { Host } from "./host/index.ts";
import { checkNodeName, checkZone, parseEngines, parseLabels } from "./identity-settings.ts";
import { LinkServer } from "./link/index.ts";
import { fetchModel } from "./models/index.ts";
import { ReplicaSet, observeEngines } from "./replicas/index.ts";
import type { agentSettings } from "./settings.ts";

const agentVersion = "0.1.0";

/** Often enough for a router's pick, seldom enough to cost nothing: ten times a second. */
const loadIntervalMs = 100;
const helloTimeoutMs = 10_000;

/**
 * The agent's parts, made and connected. It serves from what its state folder remembers at once, and from what the
 * control plane wants as soon as that answers.
 */
export async function startAgent(
  settings: SettingsOf<typeof agentSettings>,
  parts: ServiceParts,
): Promise<RunningService> {
  const { clock, random, logger, metrics } = parts;
  const name = checkNodeName(settings.name);
  const labels = parseLabels(settings.labels);
  const zone = checkZone(settings.zone);
  const engines = parseEngines(settings.engines);
  const tls = loadTls({ certPath: settings.tlsCert, keyPath: settings.tlsKey });
  const stateFile = new StateFile(join(settings.stateDir, "agent.json"), logger);
  const remembered = await stateFile.load();
  const identity = () => stateFile.state.identity;
  const host = new Host();

  const prefixCuts = metrics.counter(
    "engine_prefix_cut_total",
    "Prompts told to routers by their beginning only, since max-prefix-blocks was reached.",
  );
  const prefixes = {
    blockBytes: settings.prefixBlockBytes,
    maxBlocks: settings.maxPrefixBlocks,
    onChange(replicaId: string, change: PrefixNews | "snapshot") {
      linkServer.prefixesChanged(replicaId, change);
      if (change !== "snapshot" && change.cut > 0) prefixCuts.inc(change.cut);
    },
  };
  const replicas = new ReplicaSet({
    ...(settings.prefixBlockBytes > 0 && { prefixes }),
    fetchModel,
    engineFor: (desired) => engineFor(desired.engine, engines),
    drainTimeoutMs: settings.drainTimeoutMs,
    onChange(replica, removed) {
      if (!removed) linkServer.replicaChanged(replica);
      control.statusChanged();
    },
    clock,
    random,
    logger,
  });
  const stopObserving = observeEngines({ metrics, replicas, clock });

  const spool = await openSpool({
    dir: join(settings.stateDir, "usage"),
    maxBytes: settings.usageSpoolBytes,
    segmentBytes: Math.max(4_096, Math.min(4_194_304, Math.floor(settings.usageSpoolBytes / 8))),
    logger,
  });
  const usage = startUsageShipper({
    spool,
    ship: (records) => control.reportUsage(records),
    clock,
    random,
    logger,
    metrics,
  });

  const callMetrics = new CallMetrics(metrics);
  const runner = createCallRunner({
    target: (replicaId) => replicas.target(replicaId),
    nodeId: () => identity()?.nodeId ?? "",
    recordUsage: (record) => usage.record(record),
    newToolCallId: () => newId("call"),
    metrics: callMetrics,
    clock,
    logger,
  });

  const linkServer = new LinkServer({
    identity,
    replicas: () => replicas.infos(),
    readLoads: () => replicas.loads(),
    prefixes: {
      blockBytes: settings.prefixBlockBytes,
      replicaIds: () => (settings.prefixBlockBytes > 0 ? replicas.ids() : []),
      held: (replicaId) => replicas.heldPrefixes(replicaId),
    },
    runner,
    limits: {
      links: settings.maxLinks,
      calls: settings.maxCallsPerLink,
      callBytes: settings.callBufferBytes,
      linkBytes: settings.linkBufferBytes,
    },
    held: {
      windowMs: settings.resumeWindowMs,
      calls: settings.resumeCalls,
      callBytes: settings.resumeCallBytes,
      totalBytes: settings.resumeTotalBytes,
    },
    heartbeatMs: settings.linkHeartbeatMs,
    loadIntervalMs,
    helloTimeoutMs,
    maxMessageBytes: settings.maxRequestBytes,
    clock,
    logger,
    metrics,
  });
  let draining = false;
  const rpcServer = await startRpcServer({
    host: settings.host,
    port: settings.port,
    tls,
    // Its one method is hot.
    routes: () => {},
    hot: linkServer.hot,
    services: [LinkService],
    interceptors: [rpcErrors(logger)],
    health: () => !draining,
    maxBodyBytes: settings.maxRequestBytes,
    logger,
    metrics,
  });
  const reachableHost = isAnyAddress(settings.host) ? hostname() : settings.host;
  const linkAddress = settings.advertise ?? joinHostPort(reachableHost, rpcServer.port);

  const control = new ControlLink({
    controlPlaneUrl: settings.controlUrl,
    nodeKeyFile: settings.keyFile,
    name,
    linkAddress,
    agentVersion,
    labels,
    zone,
    engines,
    hostInfo: () => host.info(),
    hostLoad: () => host.load(),
    replicas: () => replicas.statuses(),
    runningCalls: () => callMetrics.runningCount,
    onDesired: (desired) => replicas.setDesired(desired),
    stateFile,
    clock,
    random,
    logger,
    metrics,
  });
  if (remembered.desired !== undefined) replicas.setDesired(remembered.desired);
  control.start();

  const admin = await startAdminServer({
    host: settings.adminHost,
    port: settings.adminPort,
    metrics,
    ready() {
      if (draining) return "draining";
      return identity() === undefined ? "not admitted by the control plane yet" : undefined;
    },
    logger,
  });

  return {
    url: `${tls ? "https" : "http"}://${joinHostPort(reachableHost, rpcServer.port)}`,
    adminUrl: `http://${joinHostPort(isAnyAddress(settings.adminHost) ? "127.0.0.1" : settings.adminHost, admin.port)}`,
    async drain() {
      draining = true;
      const announced = control.announceDrain();
      await linkServer.drain(settings.drainTimeoutMs);
      await replicas.close(0);
      await announced;
      await usage.flush(2_000);
      await usage.close();
      await control.close();
      await spool.close();
      stopObserving();
      await rpcServer.close();
      await admin.close();
    },
  };
}

function isAnyAddress(host: string): boolean {
  return host === "0.0.0.0" || host === "::";
}

function joinHostPort(host: string, port: number): string {
  return host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
}

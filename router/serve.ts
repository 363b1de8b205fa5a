import { readFile } from "node:fs/promises";
import { hostname } from "node:os";
import { join } from "node:path";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { startAdminServer } from "#kernel/admin-server.ts";
import { Backoff } from "#kernel/backoff.ts";
import { sleep } from "#kernel/clock.ts";
import { metricName } from "#kernel/http2-port.ts";
import { listenError } from "#kernel/listen-error.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { defaultBlockBytes } from "#kernel/prompt-blocks.ts";
import { newId } from "#kernel/random.ts";
import type { RunningService, ServiceParts, ServiceSettings } from "#kernel/run-service.ts";
import { loadTls } from "#kernel/tls.ts";
import type { Bound } from "#kernel/wire/index.ts";
import { makeFolder } from "#kernel/make-folder.ts";
import { Authenticator } from "./admission/authenticate.ts";
import { Limits } from "./admission/limits.ts";
import { Queues } from "./admission/queues.ts";
import { Rooms } from "./admission/rooms.ts";
import { callMetrics } from "./call/call-metrics.ts";
import { RecordingMemory } from "./call/recording-memory.ts";
import { ResumableCalls } from "./call/resumable-calls.ts";
import { createCalls } from "./call/router-calls.ts";
import { createSettle } from "./call/settle.ts";
import { WaitNotices } from "./call/wait-notices.ts";
import { createControlClient } from "./discovery/control-client.ts";
import { SnapshotFile } from "./discovery/snapshot-file.ts";
import type { IndexedSnapshot } from "./discovery/snapshot.ts";
import { Discovery } from "./discovery/watch.ts";
import { openDoors } from "./doors/index.ts";
import { Health } from "./failure/health.ts";
import { NodeSubset } from "./link/node-subset.ts";
import { LinkPool } from "./link/pool.ts";
import { routerPeers } from "./link/router-peers.ts";
import { createWireLinkTransport } from "./link/wire-transport.ts";
import { Fleet } from "./routing/fleet.ts";
import { PrefixIndex } from "./routing/prefix-index.ts";
import type { ReplicaLookup } from "./routing/replica-view.ts";
import { Routes } from "./routing/routes.ts";
import { routingMetrics } from "./routing/routing-metrics.ts";
import type { routerSettings } from "./settings.ts";
import { openLeftUsage, openUsage, workerFolder } from "./usage/ship.ts";

/** Builds the router from its parts, in the order in which a call meets them backwards, and opens its doors. */
export async function serveRouter(
  settings: ServiceSettings<typeof routerSettings>,
  parts: ServiceParts,
): Promise<RunningService> {
  const { clock, random, logger, metrics } = parts;
  const tls = loadTls({ certPath: settings.tlsCert, keyPath: settings.tlsKey });
  const { connectTimeoutMs, routers, maxLinks, worker } = settings;
  const wholeId = settings.routerId ?? `${hostname()}:${settings.port}`;
  // Workers of one router have the same links and everything else of their own.
  const peers = routerPeers({ routerId: wholeId, zone: settings.zone, routers });
  const subset = new NodeSubset({ ...peers, maxLinks });
  const routerId = worker === 0 ? wholeId : `${wholeId}/${worker}`;
  const stateDir = worker === 0 ? settings.stateDir : join(settings.stateDir, workerFolder(worker));
  if (worker > 0) metrics.shareWithPrimary();
  await makeFolder(stateDir, 0o700);

  const client = createControlClient({ ...settings, clock });
  const usage = await openUsage({ client, routerId, stateDir, maxBytes: settings.usageMaxBytes, ...parts });
  const usageMaxBytes = { maxBytes: settings.usageMaxBytes };
  const leftUsage =
    worker <= 1 ? await openLeftUsage({ ...settings, ...usageMaxBytes, ...parts, client, routerId }) : [];
  const snapshotFile = new SnapshotFile(stateDir, logger);
  const discovery = new Discovery({
    client,
    routerId,
    initial: await snapshotFile.load(),
    save: (snapshot) => snapshotFile.save(snapshot),
    backoff: new Backoff({ initialMs: 100, maxMs: 5_000 }, random),
    clock,
    logger,
    metrics,
  });
  const ca = settings.linkCa === undefined ? undefined : await readFile(settings.linkCa);
  const linkBounds = metrics.counter(
    "router_link_bound_reached_total",
    "Times a bound of a link's HTTP/2 was reached.",
    ["bound"],
  );
  const onBound = (bound: Bound): void => linkBounds.inc({ bound: metricName(bound) });
  const transport = createWireLinkTransport({ ca, connectTimeoutMs, clock, onBound });
  const routing = routingMetrics(metrics);
  const prefixes = new PrefixIndex({ maxEntries: settings.prefixEntries, random, metrics: routing });
  const resumables = new ResumableCalls({
    maxCalls: settings.maxResumableCalls,
    asksPerSecond: settings.resumeAsks,
    clock,
    metrics,
  });
  const pool = new LinkPool({
    routerId,
    instanceId: newId("router"),
    subset,
    transport,
    connectTimeoutMs,
    patienceMs: settings.linkPatienceMs,
    onPrefixes: (nodeId, digest, blockBytes) =>
      // Blocks of another size have other hashes: what the agent says cannot be compared with any prompt here.
      blockBytes === defaultBlockBytes ? prefixes.apply(nodeId, digest) : "ok",
    onHeld: (nodeId, news) => resumables.told(nodeId, news),
    onForget(nodeId) {
      prefixes.forget(nodeId);
      resumables.forget(nodeId);
    },
    onLoad: (_nodeId, replicaId) => loaded(replicaId),
    ...parts,
  });
  const lookup: ReplicaLookup = (nodeId, replicaId) => pool.replica(nodeId, replicaId);
  const { zonePenaltyMs } = settings;
  const fleet = new Fleet({ lookup, prefixes, zone: peers.own.zone, zonePenaltyMs, clock });
  const routes = new Routes({
    fleet,
    prefixes,
    policy: settings.policy,
    blockBytes: defaultBlockBytes,
    clock,
    random,
    metrics: routing,
  });
  // First of all listeners: a call that waits for a replica must find it there when it hears of it.
  pool.onChange((nodeId) => fleet.linkChanged(nodeId));
  const follow = (snapshot: IndexedSnapshot): void => {
    fleet.follow(snapshot);
    pool.follow(snapshot);
  };
  discovery.onChange(follow);
  follow(discovery.snapshot);

  const limits = new Limits(settings, metrics);
  const health = new Health({ settings, ...parts });
  const rooms = new Rooms({ snapshot: () => discovery.snapshot, fleet, lookup, avoided: () => health.avoided() });
  const queues = new Queues({
    bounds: {
      maxEntries: settings.queueEntries,
      maxBytes: settings.queueBytes,
      maxWaitMs: settings.queueWaitMs,
      promoteAfterMs: settings.queuePromoteAfterMs,
    },
    room: (deployment) => rooms.of(deployment),
    replicas: (deployment) => rooms.situationOfModelOf(deployment),
    clock,
    metrics,
  });
  discovery.onChange(({ replicas, deployments }) => {
    health.keep(replicas, deployments);
    queues.keep(deployments);
  });
  pool.onChange(() => queues.changed());
  /** Another router's call may have ended there. */
  function loaded(replicaId: string): void {
    const deployment = fleet.loaded(replicaId);
    if (deployment !== undefined) queues.freed(deployment);
  }
  const calls = callMetrics(metrics);
  let draining = false;
  const core = createCalls({
    settings,
    snapshot: () => discovery.snapshot,
    pool,
    routes,
    queues,
    rooms,
    notices: new WaitNotices(clock, rooms, metrics),
    health,
    recordings: new RecordingMemory(settings, metrics),
    resumables,
    settle: createSettle({ usage, metrics: calls, logger }),
    metrics: calls,
    limits,
    draining: () => draining,
    clock,
    random,
  });

  const unready = (): string | undefined => {
    if (draining) return "draining";
    return discovery.present ? undefined : "no snapshot yet: the control plane has not answered, and none is on disk";
  };
  const authenticator = new Authenticator({ maxRememberedKeys: settings.maxRememberedKeys, clock, metrics });
  const doors = await openDoors({
    host: settings.host,
    port: settings.port,
    tls,
    calls: core,
    authenticate(authorization) {
      // Without a snapshot no key is known, and the caller's may be good.
      if (!discovery.present) throw noSnapshot();
      return authenticator.authenticate(authorization, discovery.snapshot.keys);
    },
    healthy: () => unready() === undefined,
    onCut: (error) => core.cutAll(error),
    maxBodyBytes: settings.maxBodyBytes,
    corsOrigins: settings.corsOrigins,
    clock,
    logger,
    metrics,
  }).catch((error: unknown) => {
    throw listenError(error, settings.port, "--port");
  });
  const admin = await startAdminServer({
    host: worker === 0 ? settings.adminHost : "127.0.0.1",
    port: worker === 0 ? settings.adminPort : 0,
    metrics,
    ready: unready,
    logger,
  }).catch((error: unknown) => {
    throw listenError(error, settings.adminPort, "--admin-port");
  });
  discovery.start();

  return {
    url: `${tls ? "https" : "http"}://${urlHost(settings.host)}:${doors.port}`,
    adminUrl: `http://${urlHost(settings.adminHost)}:${admin.port}`,
    async drain() {
      draining = true;
      await doors.drain(settings.drainTimeoutMs);
      // Calls that were cut still wait for their agents' last word.
      const patienceMs = clock.monotonicMs() + settings.cancelGraceMs;
      while (limits.inFlight > 0 && clock.monotonicMs() < patienceMs) await sleep(clock, 10);
      pool.close();
      await discovery.stop();
      await usage.flush(settings.usageFlushTimeoutMs);
      await usage.close();
      for (const left of leftUsage) await left.close();
      await snapshotFile.flush();
      await admin.close();
    },
  };
}

function noSnapshot(): MeshError {
  const message = "This router has just started and has not reached the control plane yet; try again shortly.";
  return new MeshError(Reason.CONTROL_PLANE_UNAVAILABLE, message, { retryAfterMs: 1_000 });
}

/** An address as callers on this host can use it in a URL. */
function urlHost(host: string): string {
  if (host === "0.0.0.0" || host === "::") return "127.0.0.1";
  return host.includes(":") ? `[${host}]` : host;
}

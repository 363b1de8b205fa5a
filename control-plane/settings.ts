import { type SettingsOf, defineSettings, setting } from "#kernel/settings.ts";

/** Every setting of the control plane. */
export const controlPlaneSettings = defineSettings({
  host: setting.text({
    env: "HELIXMESH_CONTROL_HOST",
    flag: "host",
    default: "127.0.0.1",
    min: 1,
    max: 255,
    doc: "Address to listen on; 0.0.0.0 where agents and routers are on other hosts.",
  }),
  port: setting.integer({
    env: "HELIXMESH_CONTROL_PORT",
    flag: "port",
    default: 8081,
    min: 0,
    max: 65_535,
    doc: "Port of the API (gRPC, gRPC-Web, Connect and JSON); 0 takes any free one.",
  }),
  adminPort: setting.integer({
    env: "HELIXMESH_CONTROL_ADMIN_PORT",
    flag: "admin-port",
    default: 9081,
    min: 0,
    max: 65_535,
    doc: "Port of /livez, /readyz and /metrics; 0 takes any free one.",
  }),
  adminHost: setting.text({
    env: "HELIXMESH_CONTROL_ADMIN_HOST",
    flag: "admin-host",
    default: "127.0.0.1",
    min: 1,
    max: 255,
    doc: "Address of the admin port.",
  }),
  tlsCert: setting.path({
    env: "HELIXMESH_CONTROL_TLS_CERT",
    flag: "tls-cert",
    default: undefined,
    doc: "PEM file with the certificate chain; with tls-key it turns TLS on.",
  }),
  tlsKey: setting.path({
    env: "HELIXMESH_CONTROL_TLS_KEY",
    flag: "tls-key",
    default: undefined,
    doc: "PEM file with the private key of tls-cert.",
  }),
  stateDir: setting.path({
    env: "HELIXMESH_CONTROL_STATE_DIR",
    flag: "state-dir",
    default: ".helixmesh",
    doc: "Folder for what must survive a restart; the embedded PostgreSQL lives in its folder postgres.",
  }),
  databaseUrl: setting.text({
    env: "DATABASE_URL",
    flag: "database-url",
    default: undefined,
    secret: true,
    doc: "A PostgreSQL to use instead of the embedded one, as postgres://user:password@host:port/database.",
  }),
  databaseConnections: setting.integer({
    env: "HELIXMESH_CONTROL_DATABASE_CONNECTIONS",
    flag: "database-connections",
    default: 10,
    min: 3,
    max: 1_000,
    doc: "Connections to the database; further queries wait for one.",
  }),
  bootstrapDir: setting.path({
    env: "HELIXMESH_CONTROL_BOOTSTRAP_DIR",
    flag: "bootstrap-dir",
    default: undefined,
    doc: "Folder in which the first organisation's keys are written (key, operator-key, router-key, node-key; mode 0600).",
  }),
  leaseMs: setting.durationMs({
    env: "HELIXMESH_CONTROL_LEASE",
    flag: "lease",
    default: 15_000,
    min: 1_000,
    max: 600_000,
    doc: "How long after its last heartbeat a node counts as online.",
  }),
  heartbeatIntervalMs: setting.durationMs({
    env: "HELIXMESH_CONTROL_HEARTBEAT_INTERVAL",
    flag: "heartbeat-interval",
    default: 4_000,
    min: 200,
    max: 200_000,
    doc: "How often agents are told to send a heartbeat; at most a third of the lease.",
  }),
  offlineGraceMs: setting.durationMs({
    env: "HELIXMESH_CONTROL_OFFLINE_GRACE",
    flag: "offline-grace",
    default: 60_000,
    min: 0,
    max: 86_400_000,
    doc: "How long a node may be offline before its replicas are replaced elsewhere.",
  }),
  reconcileIntervalMs: setting.durationMs({
    env: "HELIXMESH_CONTROL_RECONCILE_INTERVAL",
    flag: "reconcile-interval",
    default: 2_000,
    min: 100,
    max: 60_000,
    doc: "How often placement is looked at when no change asks for it; also the delay in noticing an expired lease.",
  }),
  refreshIntervalMs: setting.durationMs({
    env: "HELIXMESH_CONTROL_REFRESH_INTERVAL",
    flag: "refresh-interval",
    default: 5_000,
    min: 100,
    max: 60_000,
    doc: "How often what routers and agents watch is read again when no change was notified, such as an expired key.",
  }),
  watchQueueLimit: setting.integer({
    env: "HELIXMESH_CONTROL_WATCH_QUEUE_LIMIT",
    flag: "watch-queue-limit",
    default: 256,
    min: 1,
    max: 100_000,
    doc: "Deltas that may wait for one slow router before its watch is ended, so that it starts again from a snapshot.",
  }),
  maxBodyBytes: setting.integer({
    env: "HELIXMESH_CONTROL_MAX_BODY_BYTES",
    flag: "max-body-bytes",
    default: 4_194_304,
    min: 65_536,
    max: 67_108_864,
    doc: "Largest request message, bytes.",
  }),
  drainMs: setting.durationMs({
    env: "HELIXMESH_CONTROL_DRAIN",
    flag: "drain",
    default: 5_000,
    min: 0,
    max: 600_000,
    doc: "How long calls under way may take to end when the process is told to stop.",
  }),
});

/** What no single setting can say of itself. */
export function checkSettings(
  settings: Pick<SettingsOf<typeof controlPlaneSettings>, "leaseMs" | "heartbeatIntervalMs">,
): void {
  const { leaseMs, heartbeatIntervalMs } = settings;
  if (heartbeatIntervalMs * 3 <= leaseMs) return;
  throw new Error(
    `--heartbeat-interval is ${heartbeatIntervalMs} ms, more than a third of --lease (${leaseMs} ms): ` +
      "one late heartbeat would take a node offline. Shorten the interval or lengthen the lease.",
  );
}

import { hostname } from "node:os";
import { defineSettings, setting } from "#kernel/settings.ts";

/** Every setting of the agent; its README table and `--help` come from here. */
export const agentSettings = defineSettings({
  nodeName: setting.text({
    env: "HELIXMESH_NODE_NAME",
    flag: "node-name",
    default: nameFromHost(hostname()),
    min: 1,
    max: 63,
    doc: "Unique in the mesh and stable over restarts: a-z, 0-9 and hyphen.",
  }),
  controlPlaneUrl: setting.text({
    env: "HELIXMESH_CONTROL_PLANE_URL",
    flag: "control-plane-url",
    default: "http://127.0.0.1:8081",
    doc: "Where the control plane answers gRPC; https:// for TLS.",
  }),
  nodeKeyFile: setting.path({
    env: "HELIXMESH_NODE_KEY_FILE",
    flag: "node-key-file",
    default: ".helixmesh/node-key",
    doc: "File with a key of role NODE; read at each registration.",
  }),
  link: setting.hostPort({
    env: "HELIXMESH_LINK",
    flag: "link",
    default: "127.0.0.1:8082",
    doc: "Where routers connect. Let other hosts in with 0.0.0.0:8082, and use TLS or a private network then.",
  }),
  linkAddress: setting.text({
    env: "HELIXMESH_LINK_ADDRESS",
    flag: "link-address",
    default: undefined,
    doc: "host:port told to routers; without it the address of --link, with the host's name for 0.0.0.0.",
  }),
  tlsCertFile: setting.path({
    env: "HELIXMESH_TLS_CERT_FILE",
    flag: "tls-cert-file",
    default: undefined,
    doc: "PEM certificate chain of the link port.",
  }),
  tlsKeyFile: setting.path({
    env: "HELIXMESH_TLS_KEY_FILE",
    flag: "tls-key-file",
    default: undefined,
    doc: "PEM private key of the link port.",
  }),
  admin: setting.hostPort({
    env: "HELIXMESH_ADMIN",
    flag: "admin",
    default: "127.0.0.1:9082",
    doc: "Where /livez, /readyz and /metrics answer.",
  }),
  labels: setting.list({
    env: "HELIXMESH_LABELS",
    flag: "labels",
    default: [],
    max: 32,
    doc: "Labels that a deployment's constraints match, as key=value.",
  }),
  stateDir: setting.path({
    env: "HELIXMESH_STATE_DIR",
    flag: "state-dir",
    default: ".helixmesh/node-agent",
    doc: "The node's identity, its last desired state and its usage spool; one agent a folder.",
  }),
  engines: setting.list({
    env: "HELIXMESH_ENGINES",
    flag: "engines",
    default: ["llama-cpp", "sim"],
    min: 1,
    doc: "Engines that this node may run: llama-cpp, sim.",
  }),
  drainTimeoutMs: setting.durationMs({
    env: "HELIXMESH_DRAIN_TIMEOUT",
    flag: "drain-timeout",
    default: 30_000,
    max: 3_600_000,
    doc: "How long running calls may take after SIGTERM, or when their replica is removed.",
  }),
  maxLinks: setting.integer({
    env: "HELIXMESH_MAX_LINKS",
    flag: "max-links",
    default: 256,
    min: 1,
    max: 10_000,
    doc: "Routers connected at once.",
  }),
  maxCallsPerLink: setting.integer({
    env: "HELIXMESH_MAX_CALLS_PER_LINK",
    flag: "max-calls-per-link",
    default: 4_096,
    min: 1,
    max: 1_000_000,
    doc: "Calls in flight for one router; more are refused with OVERLOADED.",
  }),
  callBufferBytes: setting.integer({
    env: "HELIXMESH_CALL_BUFFER_BYTES",
    flag: "call-buffer-bytes",
    default: 1_048_576,
    min: 1_024,
    max: 1_073_741_824,
    doc: "Answer bytes of one call that may wait for a slow router; past it the call ends with OVERLOADED.",
  }),
  linkBufferBytes: setting.integer({
    env: "HELIXMESH_LINK_BUFFER_BYTES",
    flag: "link-buffer-bytes",
    default: 67_108_864,
    min: 1_024,
    max: 17_179_869_184,
    doc: "The same for all calls of one router together; past it the link ends.",
  }),
  maxRequestBytes: setting.integer({
    env: "HELIXMESH_MAX_REQUEST_BYTES",
    flag: "max-request-bytes",
    default: 67_108_864,
    min: 1_024,
    max: 2_147_483_647,
    doc: "One message of a router: all calls that it starts in one event-loop turn.",
  }),
  linkHeartbeatMs: setting.durationMs({
    env: "HELIXMESH_LINK_HEARTBEAT",
    flag: "link-heartbeat",
    default: 1_000,
    min: 50,
    max: 60_000,
    doc: "How often a router hears at least something; it gives up after three times that.",
  }),
  usageSpoolBytes: setting.integer({
    env: "HELIXMESH_USAGE_SPOOL_BYTES",
    flag: "usage-spool-bytes",
    default: 268_435_456,
    min: 65_536,
    max: 1_099_511_627_776,
    doc: "Usage records on disk that wait for the control plane; past it they are dropped and logged.",
  }),
});

/** A host's name in the form of a node's. */
export function nameFromHost(host: string): string {
  const slug = host
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, "-")
    .slice(0, 63)
    .replace(/^-+|-+$/g, "");
  return slug === "" ? "node" : slug;
}

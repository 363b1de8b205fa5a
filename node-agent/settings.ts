import { hostname } from "node:os";
import { defaultBlockBytes } from "#kernel/prompt-blocks.ts";
import { defineSettings, setting } from "#kernel/settings.ts";

/** Every setting of the agent; its README table and `--help` come from here. */
export const agentSettings = defineSettings({
  host: setting.text({
    env: "HELIXMESH_NODE_HOST",
    flag: "host",
    default: "127.0.0.1",
    doc: "Address of the link port. Let other hosts in with 0.0.0.0, and use TLS or a private network then.",
  }),
  port: setting.integer({
    env: "HELIXMESH_NODE_PORT",
    flag: "port",
    default: 8082,
    min: 0,
    max: 65_535,
    doc: "Port where routers connect; 0 takes any free one.",
  }),
  advertise: setting.text({
    env: "HELIXMESH_NODE_ADVERTISE",
    flag: "advertise",
    default: undefined,
    doc: "host:port told to routers; without it --host and --port, with the host's name for 0.0.0.0.",
  }),
  adminHost: setting.text({
    env: "HELIXMESH_NODE_ADMIN_HOST",
    flag: "admin-host",
    default: "127.0.0.1",
    doc: "Address where /livez, /readyz and /metrics answer.",
  }),
  adminPort: setting.integer({
    env: "HELIXMESH_NODE_ADMIN_PORT",
    flag: "admin-port",
    default: 9082,
    min: 0,
    max: 65_535,
    doc: "Port of the same; 0 takes any free one.",
  }),
  tlsCert: setting.path({
    env: "HELIXMESH_NODE_TLS_CERT",
    flag: "tls-cert",
    default: undefined,
    doc: "PEM file with the certificate chain of the link port; with tls-key it turns TLS on.",
  }),
  tlsKey: setting.path({
    env: "HELIXMESH_NODE_TLS_KEY",
    flag: "tls-key",
    default: undefined,
    doc: "PEM file with the private key of tls-cert.",
  }),
  name: setting.text({
    env: "HELIXMESH_NODE_NAME",
    flag: "name",
    default: nameFromHost(hostname()),
    min: 1,
    max: 63,
    doc: "Unique in the mesh and stable over restarts: a-z, 0-9 and hyphen.",
  }),
  controlUrl: setting.text({
    env: "HELIXMESH_CONTROL_URL",
    flag: "control-url",
    default: "http://127.0.0.1:8081",
    min: 1,
    doc: "Where the control plane answers gRPC; https:// for TLS.",
  }),
  keyFile: setting.path({
    env: "HELIXMESH_NODE_KEY_FILE",
    flag: "key-file",
    default: ".helixmesh/node-key",
    doc: "File with a key of role NODE; read at each registration.",
  }),
  labels: setting.list({
    env: "HELIXMESH_NODE_LABELS",
    flag: "labels",
    default: [],
    max: 32,
    doc: "Labels that a deployment's constraints match, as key=value.",
  }),
  zone: setting.text({
    env: "HELIXMESH_NODE_ZONE",
    flag: "zone",
    default: "",
    max: 63,
    doc: "Failure zone of the host, such as eu-1a, which routers of the same zone prefer; without it, unknown.",
  }),
  stateDir: setting.path({
    env: "HELIXMESH_NODE_STATE_DIR",
    flag: "state-dir",
    default: ".helixmesh/node-agent",
    doc: "The node's identity, its last desired state and its usage spool; one agent a folder.",
  }),
  engines: setting.list({
    env: "HELIXMESH_NODE_ENGINES",
    flag: "engines",
    default: ["llama-cpp", "sim"],
    min: 1,
    doc: "Engines that this node may run: llama-cpp, sim.",
  }),
  drainTimeoutMs: setting.durationMs({
    env: "HELIXMESH_NODE_DRAIN_TIMEOUT",
    flag: "drain-timeout",
    default: 30_000,
    max: 3_600_000,
    doc: "How long running calls may take after SIGTERM, or when their replica is removed.",
  }),
  maxLinks: setting.integer({
    env: "HELIXMESH_NODE_MAX_LINKS",
    flag: "max-links",
    default: 256,
    min: 1,
    max: 10_000,
    doc: "Routers connected at once.",
  }),
  maxCallsPerLink: setting.integer({
    env: "HELIXMESH_NODE_MAX_CALLS_PER_LINK",
    flag: "max-calls-per-link",
    default: 4_096,
    min: 1,
    max: 1_000_000,
    doc: "Calls in flight for one router; more are refused with OVERLOADED.",
  }),
  callBufferBytes: setting.integer({
    env: "HELIXMESH_NODE_CALL_BUFFER_BYTES",
    flag: "call-buffer-bytes",
    default: 1_048_576,
    min: 1_024,
    max: 1_073_741_824,
    doc: "Answer bytes of one call that may wait for a slow router; past it the call ends with OVERLOADED.",
  }),
  linkBufferBytes: setting.integer({
    env: "HELIXMESH_NODE_LINK_BUFFER_BYTES",
    flag: "link-buffer-bytes",
    default: 67_108_864,
    min: 1_024,
    max: 17_179_869_184,
    doc: "The same for all calls of one router together; past it the link ends.",
  }),
  maxRequestBytes: setting.integer({
    env: "HELIXMESH_NODE_MAX_REQUEST_BYTES",
    flag: "max-request-bytes",
    default: 67_108_864,
    min: 1_024,
    max: 2_147_483_647,
    doc: "One message of a router: all calls that it starts in one event-loop turn.",
  }),
  linkHeartbeatMs: setting.durationMs({
    env: "HELIXMESH_NODE_LINK_HEARTBEAT",
    flag: "link-heartbeat",
    default: 1_000,
    min: 50,
    max: 60_000,
    doc: "How often a router hears at least something, twice as often while it has calls here, and how often it is asked for a sign of life then. A router gives up after three in silence, or two of the short ones with calls; the node after three without an answer.",
  }),
  prefixBlockBytes: setting.integer({
    env: "HELIXMESH_NODE_PREFIX_BLOCK_BYTES",
    flag: "prefix-block-bytes",
    default: defaultBlockBytes,
    min: 0,
    max: 65_536,
    doc: "Bytes of prompt for each hash that tells routers what the engines' caches hold; 0 tells nothing.",
  }),
  maxPrefixBlocks: setting.integer({
    env: "HELIXMESH_NODE_MAX_PREFIX_BLOCKS",
    flag: "max-prefix-blocks",
    default: 65_536,
    min: 1,
    max: 1_048_576,
    doc: "Most such hashes for one replica; a prompt with more than its share is told by its beginning.",
  }),
  resumeWindowMs: setting.durationMs({
    env: "HELIXMESH_NODE_RESUME_WINDOW",
    flag: "resume-window",
    default: 15_000,
    min: 0,
    max: 3_600_000,
    doc: "How long a generation goes on whose router died, so that its client can resume it at another; 0 ends it at once.",
  }),
  resumeCalls: setting.integer({
    env: "HELIXMESH_NODE_RESUME_CALLS",
    flag: "resume-calls",
    default: 4_096,
    min: 1,
    max: 1_000_000,
    doc: "Most of them at once; further ones end.",
  }),
  resumeCallBytes: setting.integer({
    env: "HELIXMESH_NODE_RESUME_CALL_BYTES",
    flag: "resume-call-bytes",
    default: 4_194_304,
    min: 1_024,
    max: 1_073_741_824,
    doc: "Memory for the answer of a generation so far, about 250 bytes a token; a longer one cannot be resumed.",
  }),
  resumeTotalBytes: setting.integer({
    env: "HELIXMESH_NODE_RESUME_TOTAL_BYTES",
    flag: "resume-total-bytes",
    default: 268_435_456,
    min: 0,
    max: 17_179_869_184,
    doc: "The same for all of them together.",
  }),
  usageSpoolBytes: setting.integer({
    env: "HELIXMESH_NODE_USAGE_SPOOL_BYTES",
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

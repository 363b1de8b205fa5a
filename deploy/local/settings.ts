import { join, resolve } from "node:path";
import { defineSettings, setting, type SettingsOf } from "#kernel/settings.ts";

export const projectRoot = resolve(import.meta.dirname, "../..");

/** Every setting of `helixmesh up`. */
export const upSettings = defineSettings({
  nodes: setting.integer({
    env: "HELIXMESH_UP_NODES",
    flag: "nodes",
    default: 1,
    min: 1,
    max: 16,
    doc: "Node agents to run, each with one replica of the model.",
  }),
  engine: setting.choice({
    env: "HELIXMESH_UP_ENGINE",
    flag: "engine",
    choices: ["llama.cpp", "sim"],
    default: "llama.cpp",
    doc: "What runs the model: llama.cpp with the Pocket weights, or a simulator for load and tests.",
  }),
  state: setting.path({
    env: "HELIXMESH_STATE_DIR",
    flag: "state",
    default: join(projectRoot, ".helixmesh"),
    doc: "Folder with the database, the keys and the logs; a second start goes on with what is there.",
  }),
  host: setting.text({
    env: "HELIXMESH_UP_HOST",
    flag: "host",
    default: "127.0.0.1",
    min: 1,
    max: 255,
    doc: "Address that the router listens on; 0.0.0.0 lets other machines call it, in clear text.",
  }),
  routerPort: setting.integer({
    env: "HELIXMESH_UP_ROUTER_PORT",
    flag: "router-port",
    default: 8080,
    min: 0,
    max: 65_535,
    doc: "Port of the router; 0 takes any free one.",
  }),
  controlPort: setting.integer({
    env: "HELIXMESH_UP_CONTROL_PORT",
    flag: "control-port",
    default: 8081,
    min: 0,
    max: 65_535,
    doc: "Port of the control plane; 0 takes any free one.",
  }),
  agentPort: setting.integer({
    env: "HELIXMESH_UP_AGENT_PORT",
    flag: "agent-port",
    default: 8082,
    min: 0,
    max: 65_535,
    doc: "Port of the first node agent, the others take the next free ones; 0 takes any free ones.",
  }),
  adminPortBase: setting.integer({
    env: "HELIXMESH_UP_ADMIN_PORT_BASE",
    flag: "admin-port-base",
    default: 9080,
    min: 0,
    max: 65_500,
    doc: "Admin port of the router; control plane and agents take the ones after it; 0 takes any free ones.",
  }),
  readyTimeoutMs: setting.durationMs({
    env: "HELIXMESH_UP_READY_TIMEOUT",
    flag: "ready-timeout",
    default: 180_000,
    min: 1_000,
    max: 3_600_000,
    doc: "How long the services may take to start, and then the model to answer.",
  }),
  verbose: setting.boolean({
    env: "HELIXMESH_UP_VERBOSE",
    flag: "verbose",
    default: false,
    doc: "Show the log lines of all services.",
  }),
});

export type UpSettings = SettingsOf<typeof upSettings>;

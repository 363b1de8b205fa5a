import type { ServicePorts } from "./ports.ts";
import type { StateFolder } from "./state-folder.ts";

/** The flags with which `up` starts each service; their meaning is in the service's own settings.ts. */
export const serviceFlags = {
  controlPlane(state: StateFolder, { port, adminPort }: ServicePorts): string[] {
    return flags({
      host: "127.0.0.1",
      port,
      "admin-port": adminPort,
      "state-dir": state.dir,
      "bootstrap-dir": state.dir,
    });
  },

  router(state: StateFolder, host: string, controlUrl: string, { port, adminPort }: ServicePorts): string[] {
    return flags({
      host,
      port,
      "admin-port": adminPort,
      "control-url": controlUrl,
      "key-file": state.path("router-key"),
      "state-dir": state.path("router"),
    });
  },

  agent(state: StateFolder, name: string, controlUrl: string, { port, adminPort }: ServicePorts): string[] {
    return flags({
      name,
      host: "127.0.0.1",
      port,
      "admin-port": adminPort,
      "control-url": controlUrl,
      "key-file": state.path("node-key"),
      "state-dir": state.path("agents", name),
    });
  },
};

function flags(values: Readonly<Record<string, string | number>>): string[] {
  return Object.entries(values).map(([flag, value]) => `--${flag}=${value}`);
}

import { createServer } from "node:net";
import { portHolder } from "./port-holder.ts";
import type { UpSettings } from "./settings.ts";
import { StartError, systemErrorCode } from "./start-error.ts";

/** 0 means that the service takes any free one. */
export interface ServicePorts {
  readonly port: number;
  readonly adminPort: number;
}

export interface PortPlan {
  readonly router: ServicePorts;
  readonly controlPlane: ServicePorts;
  readonly agents: readonly ServicePorts[];
}

export type PortProbe = (host: string, port: number) => Promise<"free" | "in use">;

type PortSettings = Pick<UpSettings, "nodes" | "host" | "routerPort" | "controlPort" | "agentPort" | "adminPortBase">;

const loopback = "127.0.0.1";

/**
 * Which port each service gets. Ports that were asked for by number must be free; those of further agents move on to
 * the next free one. Looks before anything starts, so that a taken port is one clear sentence and not a crash loop.
 */
export async function planPorts(settings: PortSettings, probe: PortProbe = probePort): Promise<PortPlan> {
  const taken = new Map<number, string>();

  async function exactly(port: number, flag: string, host: string): Promise<number> {
    if (port === 0) return 0;
    const other = taken.get(port);
    if (other !== undefined)
      throw new StartError(`${other} and ${flag} both come to port ${port}; change one of them.`);
    if ((await probe(host, port)) === "in use") {
      const holder = portHolder(port);
      throw new StartError(
        `Port ${port} is in use${holder === undefined ? "" : ` by ${holder}`}. Stop what uses it, or choose another port ` +
          `with ${flag} (0 takes any free one).`,
      );
    }
    taken.set(port, flag);
    return port;
  }

  async function nextFree(from: number, flag: string): Promise<number> {
    if (from === 0) return 0;
    for (let port = from; port <= Math.min(65_535, from + 100); port++) {
      if (taken.has(port) || (await probe(loopback, port)) === "in use") continue;
      taken.set(port, flag);
      return port;
    }
    throw new StartError(`No port from ${from} to ${from + 100} is free for a node agent; choose others with ${flag}.`);
  }

  const { host, routerPort, controlPort, agentPort, adminPortBase: base } = settings;
  const admin = (offset: number): number => (base === 0 ? 0 : base + offset);
  const router = await exactly(routerPort, "--router-port", host);
  const control = await exactly(controlPort, "--control-port", loopback);
  const agent = await exactly(agentPort, "--agent-port", loopback);
  const routerAdmin = await exactly(admin(0), "--admin-port-base", loopback);
  const controlAdmin = await exactly(admin(1), "--admin-port-base", loopback);
  const agents: ServicePorts[] = [{ port: agent, adminPort: await exactly(admin(2), "--admin-port-base", loopback) }];
  while (agents.length < settings.nodes) {
    const port = await nextFree(agentPort === 0 ? 0 : agentPort + agents.length, "--agent-port");
    agents.push({ port, adminPort: await nextFree(admin(2 + agents.length), "--admin-port-base") });
  }
  return {
    router: { port: router, adminPort: routerAdmin },
    controlPlane: { port: control, adminPort: controlAdmin },
    agents,
  };
}

/** Tries to listen there for a moment. */
function probePort(host: string, port: number): Promise<"free" | "in use"> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", (error) => {
      const code = systemErrorCode(error);
      if (code === "EADDRINUSE") resolve("in use");
      else if (code === "EACCES")
        reject(new StartError(`This user may not listen on port ${port}; choose one above 1023.`));
      else if (code === "EADDRNOTAVAIL" || code === "ENOTFOUND") {
        reject(new StartError(`--host is "${host}", which is no address of this machine.`));
      } else reject(error);
    });
    server.listen({ host, port, exclusive: true }, () => server.close(() => resolve("free")));
  });
}

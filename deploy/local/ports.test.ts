import { describe, expect, test } from "vitest";
import { planPorts, type PortProbe } from "./ports.ts";

const defaults = {
  nodes: 1,
  host: "127.0.0.1",
  routerPort: 8080,
  controlPort: 8081,
  agentPort: 8082,
  adminPortBase: 9080,
};

function probe(...inUse: number[]): PortProbe {
  return async (_host, port) => (inUse.includes(port) ? "in use" : "free");
}

describe("planPorts", () => {
  test("gives each service the port of its flag and admin ports in a row", async () => {
    expect(await planPorts(defaults, probe())).toEqual({
      router: { port: 8080, adminPort: 9080 },
      controlPlane: { port: 8081, adminPort: 9081 },
      agents: [{ port: 8082, adminPort: 9082 }],
    });
  });

  test("moves further agents on to the next free port", async () => {
    const { agents } = await planPorts({ ...defaults, nodes: 3 }, probe(8083, 9084));
    expect(agents).toEqual([
      { port: 8082, adminPort: 9082 },
      { port: 8084, adminPort: 9083 },
      { port: 8085, adminPort: 9085 },
    ]);
  });

  test("leaves every port to the services where 0 was asked for", async () => {
    const anyPort = { routerPort: 0, controlPort: 0, agentPort: 0, adminPortBase: 0 };
    const plan = await planPorts({ ...defaults, ...anyPort, nodes: 2 }, probe());
    expect(plan).toEqual({
      router: { port: 0, adminPort: 0 },
      controlPlane: { port: 0, adminPort: 0 },
      agents: [
        { port: 0, adminPort: 0 },
        { port: 0, adminPort: 0 },
      ],
    });
  });

  test("names the port and the flag when a port is in use", async () => {
    await expect(planPorts(defaults, probe(8081))).rejects.toThrow(/Port 8081 is in use.*--control-port/);
  });

  test("refuses two services on one port", async () => {
    await expect(planPorts({ ...defaults, controlPort: 8080 }, probe())).rejects.toThrow(
      "--router-port and --control-port both come to port 8080",
    );
  });
});

import { once } from "node:events";
import { createServer } from "node:net";
import { expect, test } from "vitest";
import { planPorts } from "./ports.ts";

test("a port in use is refused with the name of the process that holds it", async () => {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  const port = typeof address === "object" ? (address?.port ?? 0) : 0;
  const settings = { nodes: 1, host: "127.0.0.1", routerPort: port, controlPort: 0, agentPort: 0, adminPortBase: 0 };
  const holder = process.platform === "linux" ? /by node \S+ \(pid \d+\)/ : "in use";
  await expect(planPorts(settings)).rejects.toThrow(holder);
  server.close();
});

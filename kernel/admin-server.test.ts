import { afterEach, expect, test } from "vitest";
import { startAdminServer } from "#kernel/admin-server.ts";
import { silentLogger } from "#kernel/log.ts";
import { Metrics } from "#kernel/metrics.ts";

let close = async () => {};
afterEach(() => close());

async function start(ready: () => string | undefined): Promise<string> {
  const metrics = new Metrics("test");
  metrics.counter("a_total", "A.").inc();
  const server = await startAdminServer({ host: "127.0.0.1", port: 0, metrics, ready, logger: silentLogger });
  close = () => server.close();
  return `http://127.0.0.1:${server.port}`;
}

test("is ready when the service is, and says why when it is not", async () => {
  let reason: string | undefined = "no replica yet";
  const url = await start(() => reason);
  const before = await fetch(`${url}/readyz`);
  expect([before.status, await before.text()]).toEqual([503, "no replica yet\n"]);
  reason = undefined;
  expect((await fetch(`${url}/readyz`)).status).toBe(200);
});

test("is alive and shows metrics, ready or not", async () => {
  const url = await start(() => "not yet");
  expect((await fetch(`${url}/livez`)).status).toBe(200);
  const metrics = await fetch(`${url}/metrics`);
  expect(metrics.headers.get("content-type")).toContain("text/plain");
  expect(await metrics.text()).toContain("helixmesh_a_total");
});

test("has nothing else and only reads", async () => {
  const url = await start(() => undefined);
  expect((await fetch(`${url}/other`)).status).toBe(404);
  expect((await fetch(`${url}/livez`, { method: "POST" })).status).toBe(405);
});

test("rejects a port in use", async () => {
  const port = Number(new URL(await start(() => undefined)).port);
  const options = { host: "127.0.0.1", port, metrics: new Metrics("b"), ready: () => undefined, logger: silentLogger };
  await expect(startAdminServer(options)).rejects.toThrow("EADDRINUSE");
});

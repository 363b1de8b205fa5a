import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { DiscoveryService } from "#gen/helixmesh/discovery/v1/discovery_pb.ts";
import { ManualClock } from "#kernel/clock.ts";
import { silentLogger } from "#kernel/log.ts";
import { Metrics } from "#kernel/metrics.ts";
import { startRpcServer } from "#kernel/rpc-server.ts";
import { createControlClient } from "./control-client.ts";

async function start() {
  const keys: (string | null)[] = [];
  const server = await startRpcServer({
    host: "127.0.0.1",
    port: 0,
    services: [DiscoveryService],
    health: () => true,
    maxBodyBytes: 1 << 20,
    logger: silentLogger,
    metrics: new Metrics("control"),
    routes: (router) =>
      router.service(DiscoveryService, {
        reportUsage(_request, context) {
          keys.push(context.requestHeader.get("authorization"));
          return {};
        },
      }),
  });
  const dir = await mkdtemp(join(tmpdir(), "helixmesh-control-"));
  onTestFinished(async () => {
    await server.close();
    await rm(dir, { recursive: true });
  });
  const clock = new ManualClock();
  const keyFile = join(dir, "key");
  const client = createControlClient({ controlUrl: `http://127.0.0.1:${server.port}`, keyFile, clock });
  return { client, clock, keyFile, keys };
}

test("sends the key that the file had within the last second", async () => {
  const { client, clock, keyFile, keys } = await start();
  await writeFile(keyFile, "one\n");
  await client.reportUsage({});
  await writeFile(keyFile, "two\n");
  clock.advance(999);
  await client.reportUsage({});
  clock.advance(1);
  await client.reportUsage({});
  expect(keys).toEqual(["Bearer one", "Bearer one", "Bearer two"]);
});

test("asks for the file at each call until it is there", async () => {
  const { client, keyFile, keys } = await start();
  await expect(client.reportUsage({})).rejects.toThrow("cannot read the router key");
  await writeFile(keyFile, "one\n");
  await client.reportUsage({});
  expect(keys).toEqual(["Bearer one"]);
});

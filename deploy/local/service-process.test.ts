import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { systemClock } from "#kernel/clock.ts";
import { LogFile } from "./log-file.ts";
import { type ServiceEvents, ServiceProcess } from "./service-process.ts";

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "helixmesh-service-"));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

/** A child that says it is up on the ports it was told, or on 4001 and 4002 where it was told 0. */
const announces = `
  const [port, adminPort] = process.argv.slice(2).map(Number);
  process.send({ type: "ready", url: "http://127.0.0.1:" + (port || 4001), adminUrl: "http://127.0.0.1:" + (adminPort || 4002) });
  process.on("disconnect", () => process.exit(0));
`;

function launch(source: string, events: Partial<ServiceEvents> = {}): ServiceProcess {
  const main = join(dir, "main.mjs");
  writeFileSync(main, source);
  const log = new LogFile(join(dir, "service.log"));
  const ports = { port: 0, adminPort: 0 };
  const args = (own: typeof ports) => [String(own.port), String(own.adminPort)];
  const nothing = (): void => {};
  return new ServiceProcess({ name: "thing", main, ports, args, log }, systemClock, {
    onReady: nothing,
    onExit: nothing,
    onGiveUp: nothing,
    ...events,
  });
}

describe("a service process", () => {
  test("is up when it says so, with its addresses", async () => {
    const service = launch(announces);
    expect(await service.up).toEqual({
      url: "http://127.0.0.1:4001",
      adminUrl: "http://127.0.0.1:4002",
      pid: service.pid,
    });
    await service.stop(5_000);
    expect(service.address).toBeUndefined();
  });

  test("keeps its ports when it is started again after it was killed", async () => {
    const again = Promise.withResolvers<void>();
    let ready = 0;
    const service = launch(announces.replace("4001", "5001"), {
      onReady: () => void (++ready === 2 && again.resolve()),
    });
    const first = await service.up;
    // From now on it would come up elsewhere if it were told 0 again.
    writeFileSync(join(dir, "main.mjs"), announces.replace("4001", "6001"));
    process.kill(first.pid, "SIGKILL");
    await again.promise;
    expect(service.address?.url).toBe("http://127.0.0.1:5001");
    expect(service.address?.pid).not.toBe(first.pid);
    await service.stop(5_000);
  });

  test("gives up at once on wrong settings, quoting what it said", async () => {
    const service = launch(`console.error("--port is 70000"); process.exit(2);`);
    await expect(service.up).rejects.toThrow(/thing ended with exit code 2 [^]*--port is 70000/);
  });

  test("gives up after failing again and again, quoting the end of its log", async () => {
    const service = launch(`console.error(JSON.stringify({ level: "error", message: "no disk" })); process.exit(1);`);
    await expect(service.up).rejects.toThrow(/does not start again[^]*error: no disk/);
  });
});

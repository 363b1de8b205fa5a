import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestProject } from "vitest/node";
import { systemClock } from "#kernel/clock.ts";
import { silentLogger } from "#kernel/log.ts";
import { type EmbeddedPostgres, startEmbeddedPostgres } from "./embedded-postgres.ts";

declare module "vitest" {
  interface ProvidedContext {
    /** A Unix socket: whoever connects gets the URL of the run's PostgreSQL, which starts on the first demand. */
    testDatabaseSocket: string;
  }
}

/**
 * Vitest's globalSetup: one PostgreSQL for the whole run, in a temporary folder, removed afterwards. A run that needs no
 * database starts none. With DATABASE_URL set, that server is used; its user must be allowed to create databases.
 */
export async function setup(project: TestProject): Promise<() => Promise<void>> {
  const dir = await mkdtemp(join(tmpdir(), "helixmesh-test-"));
  let server: Promise<EmbeddedPostgres> | undefined;

  async function serverUrl(): Promise<string> {
    if (process.env["DATABASE_URL"]) return process.env["DATABASE_URL"];
    server ??= startEmbeddedPostgres({
      dir: join(dir, "postgres"),
      logger: silentLogger,
      clock: systemClock,
      // Its data need not survive the machine; tests of durability start a server of their own.
      serverSettings: { fsync: "off", synchronous_commit: "off", full_page_writes: "off", max_connections: "200" },
    });
    const { socketDir, port, database, user } = await server;
    return `postgres://${user}@localhost:${port}/${database}?host=${encodeURIComponent(socketDir)}`;
  }

  const desk = createServer((socket) => {
    socket.on("error", () => {}); // The asking test went away; there is nobody to tell.
    serverUrl().then(
      (url) => socket.end(JSON.stringify({ url })),
      (error: unknown) => socket.end(JSON.stringify({ error: error instanceof Error ? error.message : String(error) })),
    );
  });
  const path = join(dir, "desk");
  await new Promise<void>((resolve) => desk.listen(path, resolve));
  project.provide("testDatabaseSocket", path);

  return async () => {
    await new Promise((resolve) => desk.close(resolve));
    await (await server)?.stop();
    await rm(dir, { recursive: true, force: true });
  };
}

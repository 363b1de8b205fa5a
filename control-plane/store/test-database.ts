import { randomBytes } from "node:crypto";
import { connect } from "node:net";
import { text } from "node:stream/consumers";
import postgres from "postgres";
import { inject } from "vitest";
import { type Clock, systemClock } from "#kernel/clock.ts";
import { type Logger, silentLogger } from "#kernel/log.ts";
import { parseConnectionUrl } from "./connection-url.ts";
import { type Database, openDatabase } from "./database.ts";

export interface TestDatabase extends Database {
  /** For `openDatabase`, so that a second process or pool can use the same database. */
  readonly url: string;
}

export interface TestDatabaseOptions {
  readonly clock?: Clock;
  readonly logger?: Logger;
  /** Default true. */
  readonly migrated?: boolean;
}

/** A new database on the run's server (see test-server.ts), migrated; `close` drops it. */
export async function openTestDatabase(options: TestDatabaseOptions = {}): Promise<TestDatabase> {
  const serverUrl = await askForServer();
  const name = `test_${randomBytes(8).toString("hex")}`;
  await administer(serverUrl, `CREATE DATABASE ${name}`);
  const url = new URL(serverUrl);
  url.pathname = `/${name}`;
  const database = await openDatabase(
    { kind: "url", url: url.href },
    { logger: options.logger ?? silentLogger, clock: options.clock ?? systemClock },
  );
  if (options.migrated !== false) await database.migrate();
  return {
    ...database,
    url: url.href,
    async close() {
      await database.close();
      await administer(serverUrl, `DROP DATABASE IF EXISTS ${name} WITH (FORCE)`);
    },
  };
}

async function askForServer(): Promise<string> {
  const path = inject("testDatabaseSocket");
  if (!path) throw new Error('vitest.config.ts needs globalSetup: ["control-plane/store/test-server.ts"]');
  const answer: unknown = JSON.parse(await text(connect(path)));
  if (typeof answer === "object" && answer !== null && "url" in answer) return String(answer.url);
  throw new Error(`The tests' PostgreSQL did not start: ${JSON.stringify(answer)}`);
}

async function administer(serverUrl: string, command: string): Promise<void> {
  const { url, host } = parseConnectionUrl(serverUrl);
  const sql = postgres(url, { max: 1, onnotice: () => {}, ...(host !== undefined && { host }) });
  try {
    await sql.unsafe(command);
  } finally {
    await sql.end();
  }
}

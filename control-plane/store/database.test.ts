import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { silentLogger } from "#kernel/log.ts";
import { describeConnectionUrl, parseConnectionUrl } from "./connection-url.ts";
import { openDatabase } from "./database.ts";
import { type TestDatabase, openTestDatabase } from "./test-database.ts";

let database: TestDatabase;
beforeAll(async () => {
  database = await openTestDatabase();
});
afterAll(() => database.close());

const atMs = 1_763_700_000_123;

async function insertModel(name: string): Promise<void> {
  await database.sql`INSERT INTO models (name, created_at) VALUES (${name}, ${database.sql.types.instant(atMs)})`;
}

describe("columns", () => {
  test("carry times as Unix milliseconds, bigints as bigint and JSON with its own names", async () => {
    const [row] = await database.sql`
      SELECT ${database.sql.types.instant(atMs)}::timestamptz AS at_time, 9007199254740993 AS large,
             ${database.sql.json({ snake_case: "x" })}::jsonb AS labels, null::timestamptz AS none`;
    expect(row).toEqual({ atTime: atMs, large: 9007199254740993n, labels: { snake_case: "x" }, none: null });
  });

  test("take rows by camelCase names", async () => {
    const row = { name: "by-helper", createdAt: atMs };
    await database.sql`INSERT INTO models ${database.sql(row)}`;
    const [stored] = await database.sql`SELECT * FROM models WHERE name = 'by-helper'`;
    expect(stored).toEqual(row);
  });
});

describe("changes", () => {
  test("are heard by every pool, once committed", async () => {
    const other = await openDatabase({ kind: "url", url: database.url }, { logger: silentLogger });
    try {
      const heard = Promise.withResolvers<string>();
      await other.onChanged(heard.resolve);
      await insertModel("heard");
      expect(await heard.promise).toBe("models");
    } finally {
      await other.close();
    }
  });

  test('come as "*" after the listening connection was lost', async () => {
    const heard = Promise.withResolvers<string>();
    const stop = await database.onChanged((table) => {
      if (table === "*") heard.resolve(table);
    });
    await database.sql`
      SELECT pg_terminate_backend(pid) FROM pg_stat_activity
      WHERE datname = current_database() AND pid <> pg_backend_pid() AND query ILIKE 'listen%'`;
    expect(await heard.promise).toBe("*");
    stop();
  });

  test("raise the change version; heartbeats do not", async () => {
    const version = async (): Promise<unknown> =>
      (await database.sql`SELECT last_value FROM change_version`)[0]?.["lastValue"];
    const { sql } = database;
    const instant = sql.types.instant(atMs);
    await sql`
      INSERT INTO nodes (id, name, link_address, token_sha256, lease_expires_at, registered_at, last_heartbeat_at)
      VALUES ('node_1', 'one', 'a:1', ${new Uint8Array(32)}, ${instant}, ${instant}, ${instant})`;
    const before = await version();
    await sql`UPDATE nodes SET lease_expires_at = lease_expires_at + interval '1 s', running_calls = 5, load = '\\x01'`;
    expect(await version()).toBe(before);
    await sql`UPDATE nodes SET online = false`;
    expect(await version()).not.toBe(before);
  });
});

describe("a location", () => {
  test("that does not answer is named without its password", async () => {
    const opened = openDatabase(
      { kind: "url", url: "postgres://me:hunter2@127.0.0.1:1/mesh" },
      { logger: silentLogger },
    );
    await expect(opened).rejects.toThrow(/Cannot reach PostgreSQL at 127.0.0.1:1\/mesh: .*DATABASE_URL/);
    await expect(opened).rejects.not.toThrow(/hunter2/);
  });

  test("that is no URL says what one looks like", () => {
    expect(() => parseConnectionUrl("mysql://x")).toThrow(/DATABASE_URL must be a URL such as postgres:/);
  });

  test("may be a socket's folder", () => {
    const url = "postgres://me@localhost/mesh?host=%2Frun%2Fpostgresql";
    expect(parseConnectionUrl(url)).toEqual({ url: "postgres://me@localhost/mesh", host: "/run/postgresql" });
    expect(describeConnectionUrl(url)).toBe("/run/postgresql/mesh");
  });
});

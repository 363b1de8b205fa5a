import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { systemClock } from "#kernel/clock.ts";
import { silentLogger } from "#kernel/log.ts";
import { openDatabase } from "./database.ts";
import { type Migration, loadMigrations, migrate, nextMigration } from "./migrate.ts";
import { type TestDatabase, openTestDatabase } from "./test-database.ts";

let database: TestDatabase;
beforeEach(async () => {
  database = await openTestDatabase({ migrated: false });
});
afterEach(() => database.close());

const first: Migration = { version: 1, name: "0001-a.sql", text: "CREATE TABLE a (x int)", checksum: "aaa" };
const second: Migration = {
  version: 2,
  name: "0002-b.sql",
  text: "CREATE TABLE b (x int); INSERT INTO b VALUES (1)",
  checksum: "bbb",
};
const broken: Migration = {
  version: 2,
  name: "0002-b.sql",
  text: "CREATE TABLE b (x int); SELECT nothing",
  checksum: "ccc",
};
const parts = { logger: silentLogger, clock: systemClock };

async function tables(): Promise<unknown[]> {
  const rows = await database.sql`SELECT relname FROM pg_class WHERE relname IN ('a', 'b') ORDER BY relname`;
  return rows.map((row) => row["relname"]);
}

describe("migrating", () => {
  test("brings an empty database to the newest version, and changes nothing the second time", async () => {
    const names = (await loadMigrations(new URL("migrations/", import.meta.url))).map(({ name }) => name);
    expect(await database.migrate()).toEqual({ applied: names, version: names.length });
    expect(await database.migrate()).toEqual({ applied: [], version: names.length });
  });

  test("runs each migration once when several processes start at once", async () => {
    const others = await Promise.all(
      [1, 2, 3].map(() => openDatabase({ kind: "url", url: database.url }, { logger: silentLogger })),
    );
    try {
      const reports = await Promise.all([database, ...others].map((each) => each.migrate()));
      const names = (await loadMigrations(new URL("migrations/", import.meta.url))).map(({ name }) => name);
      expect(reports.flatMap((report) => report.applied).toSorted()).toEqual(names);
    } finally {
      await Promise.all(others.map((other) => other.close()));
    }
  });

  test("leaves the version before a migration that fails, and goes on once it is mended", async () => {
    await expect(migrate(database.sql, { ...parts, migrations: [first, broken] })).rejects.toThrow(/nothing/);
    expect(await tables()).toEqual(["a"]);
    const report = await migrate(database.sql, { ...parts, migrations: [first, second] });
    expect(report).toEqual({ applied: ["0002-b.sql"], version: 2 });
    expect(await tables()).toEqual(["a", "b"]);
  });

  test("refuses a schema that is newer, and touches nothing", async () => {
    await migrate(database.sql, { ...parts, migrations: [first, second] });
    await expect(migrate(database.sql, { ...parts, migrations: [first] })).rejects.toThrow(
      /schema version 2 \("0002-b.sql"\), newer than version 1 .* Start the newer Helixmesh/,
    );
  });
});

describe("the next migration", () => {
  test("is none when one that ran has changed since", () => {
    const ran = [{ version: 1, name: "0001-a.sql", checksum: "other" }];
    expect(() => nextMigration([first], ran)).toThrow(/must not change/);
  });
});

import { readdir, readFile } from "node:fs/promises";
import { createHash } from "node:crypto";
import type { Clock } from "#kernel/clock.ts";
import type { Logger } from "#kernel/log.ts";
import type { Sql } from "./database.ts";

export interface Migration {
  /** 1, 2, 3, … without a gap. */
  readonly version: number;
  /** File name, such as `0001-first.sql`. */
  readonly name: string;
  readonly text: string;
  /** SHA-256 of the text, hex. */
  readonly checksum: string;
}

export interface MigrationReport {
  /** Names of the migrations that this call ran. */
  readonly applied: readonly string[];
  /** The schema's version now. */
  readonly version: number;
}

export interface MigrateOptions {
  readonly logger: Logger;
  readonly clock: Clock;
  /** Default: those of the `migrations` folder. */
  readonly migrations?: readonly Migration[];
}

/** Any constant will do, as long as every version of Helixmesh uses the same: "helixmsh" in ASCII. */
const advisoryLock = 0x68656c69786d7368n;

/**
 * Forward only; each migration runs in a transaction of its own together with its row in schema_migrations, under an
 * advisory lock that other control planes wait for. A failed migration leaves the schema of the one before it.
 */
export async function migrate(sql: Sql, { logger, clock, migrations }: MigrateOptions): Promise<MigrationReport> {
  const known = migrations ?? (await loadMigrations(new URL("migrations/", import.meta.url)));
  const applied: string[] = [];
  for (;;) {
    const name = await sql.begin(async (transaction) => {
      // Held until the transaction ends. Taken first: CREATE TABLE IF NOT EXISTS itself races in PostgreSQL.
      await transaction`SELECT pg_advisory_xact_lock(${advisoryLock})`;
      await transaction`
        CREATE TABLE IF NOT EXISTS schema_migrations (
          version integer PRIMARY KEY, name text NOT NULL, checksum text NOT NULL, applied_at timestamptz NOT NULL)`;
      const done = await transaction<{ version: number; name: string; checksum: string }[]>`
        SELECT version, name, checksum FROM schema_migrations ORDER BY version`;
      const next = nextMigration(known, done);
      if (!next) return undefined;
      logger.info("migrating the database", { migration: next.name });
      await transaction.unsafe(next.text);
      await transaction`
        INSERT INTO schema_migrations (version, name, checksum, applied_at)
        VALUES (${next.version}, ${next.name}, ${next.checksum}, ${transaction.types.instant(clock.nowMs())})`;
      return next.name;
    });
    if (name === undefined) return { applied, version: known.length };
    applied.push(name);
  }
}

/** The first migration that is not done; throws when what is done is not a beginning of what is known. */
export function nextMigration(
  known: readonly Migration[],
  done: readonly { readonly version: number; readonly name: string; readonly checksum: string }[],
): Migration | undefined {
  for (const [index, row] of done.entries()) {
    const migration = known[index];
    if (!migration) {
      throw new Error(
        `The database has schema version ${done.at(-1)?.version} ("${done.at(-1)?.name}"), newer than version ` +
          `${known.length} that this Helixmesh knows. Start the newer Helixmesh that made it, or restore a backup from before.`,
      );
    }
    if (migration.version !== row.version || migration.checksum !== row.checksum) {
      throw new Error(
        `Migration "${row.name}" (version ${row.version}) ran with checksum ${row.checksum.slice(0, 12)}, but this ` +
          `Helixmesh has "${migration.name}" with ${migration.checksum.slice(0, 12)}. An applied migration must not ` +
          `change: restore the file, and put the change into a new migration.`,
      );
    }
  }
  return known[done.length];
}

/** Reads `NNNN-name.sql` files; their numbers must be 1, 2, 3, … */
export async function loadMigrations(folder: URL): Promise<Migration[]> {
  const names = (await readdir(folder)).filter((name) => name.endsWith(".sql")).sort();
  return Promise.all(
    names.map(async (name, index) => {
      const version = Number.parseInt(name, 10);
      if (version !== index + 1 || !/^\d{4}-[a-z0-9-]+\.sql$/.test(name)) {
        throw new Error(`Migration file "${name}" should be number ${index + 1} and be named like 0001-first.sql.`);
      }
      const text = await readFile(new URL(name, folder), "utf8");
      return { version, name, text, checksum: createHash("sha256").update(text).digest("hex") };
    }),
  );
}

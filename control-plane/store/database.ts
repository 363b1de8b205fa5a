import postgres from "postgres";
import type { Clock } from "#kernel/clock.ts";
import { systemClock } from "#kernel/clock.ts";
import type { Logger } from "#kernel/log.ts";
import { type EmbeddedPostgres, startEmbeddedPostgres } from "./embedded-postgres.ts";
import { type ConnectionTarget, describeConnectionUrl, parseConnectionUrl } from "./connection-url.ts";
import { type MigrationReport, migrate } from "./migrate.ts";

/**
 * How columns arrive: `bigint` as bigint, `numeric` as string, `timestamptz` as number (Unix milliseconds), `bytea` as
 * Buffer, `jsonb` parsed; and how they are sent: the same types. Column names are snake_case in SQL text and camelCase
 * in rows and in `sql(object)` helpers.
 */
interface ColumnTypes {
  bigint: bigint;
  instant: number;
}
export type Sql = postgres.Sql<{ [K in keyof ColumnTypes]: ColumnTypes[K] }>;
export type Transaction = postgres.TransactionSql<{ [K in keyof ColumnTypes]: ColumnTypes[K] }>;

export type DatabaseLocation =
  /** Any PostgreSQL 15 or newer, as `postgres://user:password@host:port/database`. */
  | { readonly kind: "url"; readonly url: string }
  /** A PostgreSQL of our own as a child process, its files in this folder; made on first use. */
  | { readonly kind: "embedded"; readonly dir: string };

export interface DatabaseOptions {
  readonly logger: Logger;
  readonly clock?: Clock;
  /** Connections in the pool; further queries wait. Default 10; the embedded server takes 40 in all. */
  readonly maxConnections?: number;
}

export interface Database {
  readonly sql: Sql;
  /** Brings the schema up to date; safe when several processes do it at once. Refuses a newer schema. */
  migrate(): Promise<MigrationReport>;
  /**
   * Calls `listener` with the name of each table of which another process or this one committed a change, and with "*"
   * when changes may have been missed (the connection was lost and is back). Resolves, with a function that stops it,
   * once changes are heard. Listeners must not throw.
   */
  onChanged(listener: (table: string) => void): Promise<() => void>;
  /** Waits for queries under way, at most 5 s; then stops an embedded server. Idempotent. */
  close(): Promise<void>;
}

const changeChannel = "helixmesh_changed";

export async function openDatabase(location: DatabaseLocation, options: DatabaseOptions): Promise<Database> {
  const { logger, clock = systemClock } = options;
  let embedded: EmbeddedPostgres | undefined;
  let target: ConnectionTarget | EmbeddedPostgres;
  if (location.kind === "embedded")
    target = embedded = await startEmbeddedPostgres({ dir: location.dir, logger, clock });
  else target = parseConnectionUrl(location.url);
  const sql = connect(target, options);
  try {
    await sql`SELECT 1`;
  } catch (error) {
    await sql.end({ timeout: 0 });
    await embedded?.stop();
    const where =
      location.kind === "embedded" ? "the embedded PostgreSQL" : `PostgreSQL at ${describeConnectionUrl(location.url)}`;
    throw new Error(`Cannot reach ${where}: ${messageOf(error)}. Check DATABASE_URL and that the server is running.`, {
      cause: error,
    });
  }

  const listeners = new Set<(table: string) => void>();
  let listening: Promise<unknown> | undefined;
  let closing: Promise<void> | undefined;

  async function listen(): Promise<void> {
    let first = true;
    await sql.listen(
      changeChannel,
      (table) => {
        for (const listener of listeners) listener(table);
      },
      () => {
        // The driver listens anew after a lost connection; what was notified in between is gone.
        if (!first) for (const listener of listeners) listener("*");
        first = false;
      },
    );
  }

  return {
    sql,
    migrate: () => migrate(sql, { logger, clock }),
    async onChanged(listener) {
      listeners.add(listener);
      try {
        await (listening ??= listen());
      } catch (error) {
        listening = undefined;
        listeners.delete(listener);
        throw error;
      }
      return () => void listeners.delete(listener);
    },
    close() {
      closing ??= (async () => {
        listeners.clear();
        await sql.end({ timeout: 5 });
        await embedded?.stop();
      })();
      return closing;
    },
  };
}

function connect(target: ConnectionTarget | EmbeddedPostgres, { logger, maxConnections = 10 }: DatabaseOptions): Sql {
  const options = {
    max: maxConnections,
    connect_timeout: 10,
    // Seconds; the driver's own rises to 20, long after a restarted server is back.
    backoff: (attempt: number) => Math.min(1, 0.05 * 2 ** attempt),
    connection: { application_name: "helixmesh", TimeZone: "UTC" },
    onnotice: (notice: postgres.Notice) => logger.debug("postgres notice", { notice: notice["message"] }),
    transform: { column: { from: postgres.toCamel, to: postgres.fromCamel } },
    types: {
      bigint: postgres.BigInt,
      instant: {
        to: 1184,
        from: [1184],
        // Pure conversions between text and Unix milliseconds: no clock is read here.
        serialize: (ms: number) => new Date(ms).toISOString(),
        parse: (text: string) => Date.parse(text),
      },
    },
  };
  if ("socketDir" in target) {
    const { socketDir, port, database, user } = target;
    return postgres({ ...options, host: socketDir, port, database, user });
  }
  return postgres(target.url, { ...options, ...(target.host !== undefined && { host: target.host }) });
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message || error.name : String(error);
}

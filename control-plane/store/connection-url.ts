/** What the driver takes: it knows no socket folders in URLs. */
export interface ConnectionTarget {
  readonly url: string;
  /** Folder of a Unix socket. */
  readonly host?: string;
}

/**
 * Reads `postgres://user:password@host:port/database?sslmode=…`, with `?host=/folder` for a Unix socket as libpq has it
 * (PostgreSQL 18 documentation, section 32.1.1.2). The error never repeats the URL, which may hold a password.
 */
export function parseConnectionUrl(text: string): ConnectionTarget {
  const url = URL.parse(text);
  if (!url || !/^postgres(ql)?:$/.test(url.protocol)) {
    throw new Error("DATABASE_URL must be a URL such as postgres://user:password@host:5432/database.");
  }
  const host = url.searchParams.get("host");
  if (!host) return { url: text };
  url.searchParams.delete("host");
  return { url: url.href, host };
}

/** Host and database, for logs and errors: without user and password. */
export function describeConnectionUrl(text: string): string {
  const url = URL.parse(text);
  return url ? `${url.searchParams.get("host") ?? url.host}${url.pathname}` : "DATABASE_URL";
}

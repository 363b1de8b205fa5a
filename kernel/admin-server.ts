import { once } from "node:events";
import { type ServerResponse, createServer } from "node:http";
import type { AddressInfo } from "node:net";
import type { Logger } from "#kernel/log.ts";
import type { MetricsPage } from "#kernel/metrics.ts";

export interface AdminServerOptions {
  readonly host: string;
  /** 0 asks the system for a free port. */
  readonly port: number;
  readonly metrics: MetricsPage;
  /** Why the service is not ready, or undefined when it is. */
  readonly ready: () => string | undefined | Promise<string | undefined>;
  readonly logger: Logger;
}

/** `/livez` (the process answers), `/readyz` (send it work, or 503 and why not), `/metrics` (Prometheus). */
export async function startAdminServer(
  options: AdminServerOptions,
): Promise<{ readonly port: number; close(): Promise<void> }> {
  const { metrics, logger } = options;
  const server = createServer((request, response) => {
    if (request.method !== "GET" && request.method !== "HEAD") {
      return send(response, 405, "only GET and HEAD\n", { allow: "GET, HEAD" });
    }
    switch (request.url?.split("?", 1)[0]) {
      case "/livez":
        return send(response, 200, "ok\n");
      case "/readyz": {
        Promise.resolve(options.ready()).then(
          (reason) => (reason === undefined ? send(response, 200, "ok\n") : send(response, 503, `${reason}\n`)),
          (error: unknown) => {
            logger.error("readiness failed", { error });
            send(response, 500, "readiness failed; see the log\n");
          },
        );
        return;
      }
      case "/metrics":
        metrics.text().then(
          (text) => send(response, 200, text, { "content-type": metrics.contentType }),
          (error: unknown) => {
            logger.error("metrics failed", { error });
            send(response, 500, "metrics failed; see the log\n");
          },
        );
        return;
      default:
        return send(response, 404, "only /livez, /readyz and /metrics are here\n");
    }
  });
  // A worker of node:cluster has one of its own.
  server.listen({ port: options.port, host: options.host, exclusive: true });
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  return {
    port,
    async close() {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      server.closeAllConnections();
      await closed;
    },
  };
}

function send(response: ServerResponse, status: number, text: string, headers: Record<string, string> = {}): void {
  response.writeHead(status, { "content-type": "text/plain; charset=utf-8", "cache-control": "no-store", ...headers });
  response.end(text);
}

import { readFile } from "node:fs/promises";
import { type Client, type Interceptor, createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { DiscoveryService } from "#gen/helixmesh/discovery/v1/discovery_pb.ts";
import type { Clock } from "#kernel/clock.ts";

/** How long a key that was read is used: a busy router ships usage ten times a second. */
const keyMs = 1_000;

/** The control plane as a router sees it. The key is read again and again, so a file may appear late or be replaced. */
export function createControlClient(options: {
  readonly controlUrl: string;
  readonly keyFile: string;
  readonly clock: Clock;
}): Client<typeof DiscoveryService> {
  const { controlUrl, keyFile, clock } = options;
  let key = "";
  let readMs = Number.NEGATIVE_INFINITY;
  const withKey: Interceptor = (next) => async (request) => {
    if (clock.monotonicMs() - readMs >= keyMs) {
      try {
        key = (await readFile(keyFile, "utf8")).trim();
      } catch (cause) {
        throw new Error(`cannot read the router key ${keyFile}`, { cause });
      }
      readMs = clock.monotonicMs();
    }
    request.header.set("authorization", `Bearer ${key}`);
    return next(request);
  };
  // Pings find a connection that died without a word; the watch alone would wait for its 45 s.
  const transport = createGrpcTransport({
    baseUrl: controlUrl,
    interceptors: [withKey],
    pingIntervalMs: 15_000,
    pingTimeoutMs: 10_000,
    pingIdleConnection: false,
  });
  return createClient(DiscoveryService, transport);
}

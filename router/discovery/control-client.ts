import { readFile } from "node:fs/promises";
import { type Client, type Interceptor, createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { DiscoveryService } from "#gen/helixmesh/discovery/v1/discovery_pb.ts";

/** The control plane as a router sees it. The key is read at each call, so a file may appear late or be replaced. */
export function createControlClient(options: {
  readonly controlUrl: string;
  readonly keyFile: string;
}): Client<typeof DiscoveryService> {
  const withKey: Interceptor = (next) => async (request) => {
    let key: string;
    try {
      key = (await readFile(options.keyFile, "utf8")).trim();
    } catch (cause) {
      throw new Error(`cannot read the router key ${options.keyFile}`, { cause });
    }
    request.header.set("authorization", `Bearer ${key}`);
    return next(request);
  };
  // Pings find a connection that died without a word; the watch alone would wait for its 45 s.
  const transport = createGrpcTransport({
    baseUrl: options.controlUrl,
    interceptors: [withKey],
    pingIntervalMs: 15_000,
    pingTimeoutMs: 10_000,
    pingIdleConnection: false,
  });
  return createClient(DiscoveryService, transport);
}

import { type Client, createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { NodeService } from "#gen/helixmesh/node/v1/node_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";

export type NodeClient = Client<typeof NodeService>;

/** For unary calls; the watch has none. */
export const callTimeoutMs = 10_000;

export function createNodeClient(baseUrl: string): NodeClient {
  return createClient(
    NodeService,
    createGrpcTransport({
      baseUrl,
      // A control plane that lost its power says nothing; pings find out.
      pingIntervalMs: 15_000,
      pingTimeoutMs: 10_000,
    }),
  );
}

/** The headers that a secret of the control plane goes in. */
export function bearer(secret: string): { readonly headers: { readonly authorization: string } } {
  return { headers: { authorization: `Bearer ${secret}` } };
}

/** The control plane does not know this node (any more): only registering helps. */
export function mustRegister(error: unknown): boolean {
  const { reason } = MeshError.from(error);
  return reason === Reason.NOT_FOUND || reason === Reason.INVALID_API_KEY || reason === Reason.PERMISSION_DENIED;
}

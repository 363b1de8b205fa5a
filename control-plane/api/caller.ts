import { createContextKey } from "@connectrpc/connect";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";

/** Who calls, once `authenticate` let the call through. */
export type Caller =
  | { readonly kind: "key"; readonly keyId: string }
  | { readonly kind: "node"; readonly nodeId: string };

/** No caller unless `authenticate` set one. */
export const callerKey = createContextKey<Caller | undefined>(undefined, { description: "who calls" });

/** A node may speak for itself only. */
export function checkOwnNode(caller: Caller | undefined, nodeId: string): void {
  if (caller?.kind === "node" && caller.nodeId === nodeId) return;
  throw new MeshError(Reason.PERMISSION_DENIED, "node_id is not the node that this node token belongs to", {
    field: "node_id",
  });
}

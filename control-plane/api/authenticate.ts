import { DiscoveryService } from "#gen/helixmesh/discovery/v1/discovery_pb.ts";
import { NodeService } from "#gen/helixmesh/node/v1/node_pb.ts";
import { KeyRole } from "#gen/helixmesh/type/v1/type_pb.ts";
import type { Authorize } from "#kernel/rpc-errors.ts";
import type { KeyAuthenticator } from "../keys/authenticate.ts";
import { authenticateNode } from "../nodes/authenticate-node.ts";
import type { Sql } from "../store/database.ts";
import { callerKey } from "./caller.ts";

/**
 * Lets a call through when its key has the role that its method asks for: control.v1 an OPERATOR, discovery.v1 a
 * ROUTER, node.v1 Register a NODE key and the node's own token for the rest. Health and reflection never come here.
 */
export function authenticate(sql: Sql, keys: KeyAuthenticator): Authorize {
  return async ({ requestHeader, service, method, values }) => {
    const header = requestHeader.get("authorization");
    if (service.typeName === NodeService.typeName && method.name !== "Register") {
      values.set(callerKey, { kind: "node", nodeId: await authenticateNode(sql, header) });
    } else {
      const key = await keys.authenticateKey(header, roleFor(service.typeName));
      values.set(callerKey, { kind: "key", keyId: key.id });
    }
  };
}

function roleFor(service: string): KeyRole {
  if (service === NodeService.typeName) return KeyRole.NODE;
  return service === DiscoveryService.typeName ? KeyRole.ROUTER : KeyRole.OPERATOR;
}

import { toBinary } from "@bufbuild/protobuf";
import { HostInfoSchema, type RegisterRequest } from "#gen/helixmesh/node/v1/node_pb.ts";
import { newId } from "#kernel/random.ts";
import type { Sql } from "../store/database.ts";
import { createNodeSecret } from "./node-token.ts";

/**
 * Admits a checked node. One that returns keeps its id and replicas and gets a new token: the old one dies with the
 * process that held it. Its lease starts at once.
 */
export async function registerNode(
  sql: Sql,
  request: RegisterRequest,
  leaseMs: number,
): Promise<{ readonly nodeId: string; readonly nodeToken: string }> {
  const secret = createNodeSecret();
  const host = request.host ? Buffer.from(toBinary(HostInfoSchema, request.host)) : Buffer.alloc(0);
  const engines = [...new Set<number>(request.engines)].sort((a, b) => a - b);
  const [row] = await sql<{ id: string }[]>`
    INSERT INTO nodes (id, name, link_address, token_sha256, agent_version, host, labels, zone, engines,
                       lease_expires_at, registered_at, last_heartbeat_at)
    VALUES (${newId("node")}, ${request.name}, ${request.linkAddress}, ${Buffer.from(secret.sha256)},
            ${request.agentVersion}, ${host}, ${sql.json(request.labels)}, ${request.zone},
            ${engines}::smallint[], now() + ${leaseMs} * interval '1 millisecond', now(), now())
    ON CONFLICT (name) DO UPDATE SET
      link_address = excluded.link_address, token_sha256 = excluded.token_sha256,
      agent_version = excluded.agent_version, host = excluded.host, labels = excluded.labels,
      zone = excluded.zone, engines = excluded.engines, lease_expires_at = excluded.lease_expires_at, online = true, draining = false,
      registered_at = now(), last_heartbeat_at = now(), running_calls = 0
    RETURNING id`;
  if (!row) throw new Error("an upsert of a node returned no row");
  return { nodeId: row.id, nodeToken: secret.tokenFor(row.id) };
}

import { create, fromBinary } from "@bufbuild/protobuf";
import { type Node, NodeSchema } from "#gen/helixmesh/control/v1/control_pb.ts";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { HostInfoSchema, HostLoadSchema } from "#gen/helixmesh/node/v1/node_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { quote } from "../checks/field.ts";
import type { Page } from "../checks/page.ts";
import type { Sql } from "../store/database.ts";

interface NodeRow {
  readonly id: string;
  readonly name: string;
  readonly linkAddress: string;
  readonly agentVersion: string;
  readonly online: boolean;
  readonly cordoned: boolean;
  readonly host: Buffer;
  readonly load: Buffer;
  readonly labels: Record<string, string>;
  readonly zone: string;
  readonly lastHeartbeatAt: number;
  readonly runningCalls: bigint;
}

/** One more than the page's limit, if there are. */
export async function listNodes(sql: Sql, page: Page): Promise<Node[]> {
  const rows = await sql<NodeRow[]>`
    SELECT * FROM nodes WHERE name > ${page.after} ORDER BY name LIMIT ${page.limit + 1}`;
  return rows.map(toNode);
}

export async function setCordon(sql: Sql, nodeId: string, cordoned: boolean): Promise<Node> {
  const [row] = await sql<NodeRow[]>`UPDATE nodes SET cordoned = ${cordoned} WHERE id = ${nodeId} RETURNING *`;
  if (!row) throw nodeNotFound(nodeId);
  return toNode(row);
}

/** With its replicas; placement makes up for them elsewhere. */
export async function deleteNode(sql: Sql, nodeId: string): Promise<void> {
  const deleted = await sql`DELETE FROM nodes WHERE id = ${nodeId} AND NOT online RETURNING id`;
  if (deleted.length > 0) return;
  const [row] = await sql<{ name: string }[]>`SELECT name FROM nodes WHERE id = ${nodeId}`;
  if (!row) throw nodeNotFound(nodeId);
  throw new MeshError(Reason.CONFLICT, `node ${quote(row.name)} is online; stop its agent first`, { field: "node_id" });
}

function toNode(row: NodeRow): Node {
  return create(NodeSchema, {
    nodeId: row.id,
    name: row.name,
    linkAddress: row.linkAddress,
    agentVersion: row.agentVersion,
    online: row.online,
    cordoned: row.cordoned,
    host: fromBinary(HostInfoSchema, row.host),
    load: fromBinary(HostLoadSchema, row.load),
    labels: row.labels,
    zone: row.zone,
    lastHeartbeatAtMs: BigInt(row.lastHeartbeatAt),
    runningCalls: Number(row.runningCalls),
  });
}

function nodeNotFound(nodeId: string): MeshError {
  return new MeshError(Reason.NOT_FOUND, `no node with id ${quote(nodeId)}; helixmesh nodes lists them`, {
    field: "node_id",
  });
}

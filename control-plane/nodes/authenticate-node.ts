import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { bearerToken, sameSecret } from "#kernel/api-key.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import type { Sql } from "../store/database.ts";
import { nodeUnknown } from "./leases.ts";
import { parseNodeToken } from "./node-token.ts";

/** The id of the node whose token an `authorization: Bearer` header holds; NOT_FOUND for a node that was deleted. */
export async function authenticateNode(sql: Sql, header: string | null): Promise<string> {
  const token = bearerToken(header);
  const presented = token === undefined ? undefined : parseNodeToken(token);
  if (!presented) {
    throw new MeshError(
      Reason.INVALID_API_KEY,
      'This call takes a node token as "authorization: Bearer hn_…"; Register returns it.',
    );
  }
  const [row] = await sql<{ tokenSha256: Buffer }[]>`SELECT token_sha256 FROM nodes WHERE id = ${presented.nodeId}`;
  if (!row) throw nodeUnknown();
  if (!sameSecret(row.tokenSha256, presented.secretSha256)) {
    throw new MeshError(
      Reason.INVALID_API_KEY,
      "This is not the node's present token: an agent of the same name registered since. Register again.",
    );
  }
  return presented.nodeId;
}

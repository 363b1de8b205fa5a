import { createHmac, randomBytes } from "node:crypto";
import type { Sql } from "../store/database.ts";

/**
 * The secret that routers present to a node's agent: HMAC-SHA256 of the node's id under the mesh's link secret, hex. It
 * can be made again at any time, so it is stored nowhere, and one node's token opens no other node.
 */
export function linkToken(linkSecret: string, nodeId: string): string {
  return createHmac("sha256", linkSecret).update(nodeId).digest("hex");
}

/** The mesh's link secret; the first control plane that asks makes it. */
export async function loadLinkSecret(sql: Sql): Promise<string> {
  const fresh = randomBytes(32).toString("hex");
  await sql`INSERT INTO mesh_settings (key, value) VALUES ('link_secret', ${fresh}) ON CONFLICT (key) DO NOTHING`;
  const [row] = await sql<{ value: string }[]>`SELECT value FROM mesh_settings WHERE key = 'link_secret'`;
  if (!row) throw new Error("The database lost the link secret that was just written to mesh_settings.");
  return row.value;
}

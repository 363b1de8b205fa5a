import { randomBytes } from "node:crypto";
import { sha256 } from "#kernel/api-key.ts";

/**
 * A node token is `hn_<node id>_<48 hex digits>`. It names its node, so that checking it takes one read by primary key;
 * at rest only SHA-256 of the secret part is kept.
 */
export interface NodeToken {
  readonly nodeId: string;
  readonly secretSha256: Uint8Array;
}

export function createNodeSecret(): { readonly sha256: Uint8Array; tokenFor(nodeId: string): string } {
  const secret = randomBytes(24).toString("hex");
  return { sha256: sha256(secret), tokenFor: (nodeId) => `hn_${nodeId}_${secret}` };
}

/** Undefined for anything that is not of the form. */
export function parseNodeToken(text: string): NodeToken | undefined {
  const match = /^hn_(node_[0-9a-f]{32})_([0-9a-f]{48})$/.exec(text);
  if (!match?.[1] || !match[2]) return undefined;
  return { nodeId: match[1], secretSha256: sha256(match[2]) };
}

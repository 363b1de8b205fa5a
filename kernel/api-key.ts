import { hash, randomBytes, timingSafeEqual } from "node:crypto";

/**
 * A key is `hm_<id>_<secret>`: 12 hex digits that may be shown, 48 hex digits (192 bits) that may not. At rest only
 * SHA-256 of the secret is kept: a slow hash guards guessable secrets, and this one cannot be guessed.
 */
export interface ApiKey {
  readonly id: string;
  readonly secretSha256: Uint8Array;
}

export function createApiKey(): ApiKey & { readonly text: string } {
  const id = randomBytes(6).toString("hex");
  const secret = randomBytes(24).toString("hex");
  return { id, secretSha256: sha256(secret), text: `hm_${id}_${secret}` };
}

/** Undefined for anything that is not of the form; says nothing about whether the key exists. */
export function parseApiKey(text: string): ApiKey | undefined {
  const match = /^hm_([0-9a-f]{12})_([0-9a-f]{48})$/.exec(text);
  if (!match?.[1] || !match[2]) return undefined;
  return { id: match[1], secretSha256: sha256(match[2]) };
}

/** The token of an `authorization: Bearer` header; undefined when there is none. */
export function bearerToken(header: string | null | undefined): string | undefined {
  const match = /^bearer +(\S+) *$/i.exec(header ?? "");
  return match?.[1];
}

/** Constant time for equal lengths; hashes always have one. */
export function sameSecret(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && timingSafeEqual(a, b);
}

export function sha256(text: string): Uint8Array {
  // Asked for bytes, Node makes a Hash object with all that belongs to a stream: three times the cost.
  return Buffer.from(hash("sha256", text, "hex"), "hex");
}

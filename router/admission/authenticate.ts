import { type Key } from "#gen/helixmesh/discovery/v1/discovery_pb.ts";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { KeyRole } from "#gen/helixmesh/type/v1/type_pb.ts";
import { bearerToken, parseApiKey, sameSecret } from "#kernel/api-key.ts";
import type { Clock } from "#kernel/clock.ts";
import { MeshError } from "#kernel/mesh-error.ts";

/** Who pays for a call. */
export interface Principal {
  readonly keyId: string;
  readonly projectId: string;
}

/** Compared against when the key is unknown, so that an unknown key takes as long as a wrong secret. */
const nobodysSecret = new Uint8Array(32);

/**
 * Authenticates by `authorization: Bearer KEY` against the hashes of the current snapshot.
 * @throws MeshError INVALID_API_KEY, PERMISSION_DENIED
 */
export function authenticate(
  authorization: string | null | undefined,
  keys: ReadonlyMap<string, Key>,
  clock: Clock,
): Principal {
  const token = bearerToken(authorization);
  if (token === undefined) {
    throw new MeshError(Reason.INVALID_API_KEY, 'No API key: send it in the header "authorization: Bearer KEY".');
  }
  const presented = parseApiKey(token);
  const known = presented && keys.get(presented.id);
  const matches = sameSecret(presented?.secretSha256 ?? nobodysSecret, known?.secretSha256 ?? nobodysSecret);
  if (!presented || !known || !matches) {
    throw new MeshError(
      Reason.INVALID_API_KEY,
      "This API key is not valid; check it, or create one with `helixmesh keys create`.",
    );
  }
  if (known.expiresAtMs !== 0n && known.expiresAtMs <= BigInt(clock.nowMs())) {
    throw new MeshError(Reason.INVALID_API_KEY, `The API key ${known.keyId} has expired; create another one.`);
  }
  if (known.role !== KeyRole.INFERENCE) {
    throw new MeshError(
      Reason.PERMISSION_DENIED,
      `The API key ${known.keyId} may not call models; use an inference key.`,
    );
  }
  return { keyId: known.keyId, projectId: known.projectId };
}

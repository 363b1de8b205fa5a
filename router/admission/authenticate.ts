import { type Key } from "#gen/helixmesh/discovery/v1/discovery_pb.ts";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { KeyRole } from "#gen/helixmesh/type/v1/type_pb.ts";
import { type ApiKey, bearerToken, parseApiKey, sameSecret } from "#kernel/api-key.ts";
import type { Clock } from "#kernel/clock.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import type { Counter } from "#kernel/counter.ts";
import type { Metrics } from "#kernel/metrics.ts";

/** Who pays for a call. */
export interface Principal {
  readonly keyId: string;
  readonly projectId: string;
}

/** Compared against when the key is unknown, so that an unknown key takes as long as a wrong secret. */
const nobodysSecret = new Uint8Array(32);

export interface AuthenticatorOptions {
  /** Keys whose headers are remembered at a time; the oldest makes room for one more. */
  readonly maxRememberedKeys: number;
  readonly clock: Clock;
  readonly metrics: Metrics;
}

/** How long the headers of good keys are remembered, with the hash of their secret. */
const rememberedMs = 60_000;

/**
 * Authenticates by `authorization: Bearer KEY` against the hashes of the current snapshot.
 *
 * The header of a key that was good is remembered with its hash: hashing the same secret again for each of its calls
 * would take longer than picking a replica for it. So the secrets of keys in use stay in this process's memory for up to
 * a minute after a call (HTTP/2 keeps its clients' headers for as long as they are connected), never on disk or in a log.
 * What is remembered is a hash and no verdict: it is compared with the snapshot's, in constant time, for every call, so
 * a revoked or expired key is refused as ever. Only good keys are remembered: guesses cannot push them out.
 */
export class Authenticator {
  readonly #clock: Clock;
  readonly #mostRemembered: number;
  readonly #remembered = new Map<string, ApiKey>();
  readonly #forgotten: Counter;

  constructor({ clock, maxRememberedKeys, metrics }: AuthenticatorOptions) {
    this.#clock = clock;
    this.#mostRemembered = maxRememberedKeys;
    this.#forgotten = metrics.counter(
      "router_remembered_keys_forgotten_total",
      "Keys whose secret will be hashed again, since as many as may be remembered were.",
    );
  }

  /** @throws MeshError INVALID_API_KEY, PERMISSION_DENIED */
  authenticate(authorization: string | null | undefined, keys: ReadonlyMap<string, Key>): Principal {
    const remembered = this.#remembered.get(authorization ?? "");
    const presented = remembered ?? readKey(authorization);
    const known = presented && keys.get(presented.id);
    const matches = sameSecret(presented?.secretSha256 ?? nobodysSecret, known?.secretSha256 ?? nobodysSecret);
    if (!presented || !known || !matches) {
      throw new MeshError(
        Reason.INVALID_API_KEY,
        "This API key is not valid; check it, or create one with `helixmesh keys create`.",
      );
    }
    if (known.expiresAtMs !== 0n && known.expiresAtMs <= BigInt(this.#clock.nowMs())) {
      throw new MeshError(Reason.INVALID_API_KEY, `The API key ${known.keyId} has expired; create another one.`);
    }
    if (known.role !== KeyRole.INFERENCE) {
      throw new MeshError(
        Reason.PERMISSION_DENIED,
        `The API key ${known.keyId} may not call models; use an inference key.`,
      );
    }
    if (!remembered && authorization) this.#remember(authorization, presented);
    return { keyId: known.keyId, projectId: known.projectId };
  }

  #remember(authorization: string, key: ApiKey): void {
    const remembered = this.#remembered;
    if (this.#mostRemembered === 0) return;
    const [oldest] = remembered.keys();
    if (oldest === undefined) this.#clock.setTimer(rememberedMs, () => remembered.clear(), { unref: true });
    else if (remembered.size >= this.#mostRemembered) {
      remembered.delete(oldest);
      this.#forgotten.inc();
    }
    remembered.set(authorization, key);
  }
}

/** Undefined for a token that is no key by its form. */
function readKey(authorization: string | null | undefined): ApiKey | undefined {
  const token = bearerToken(authorization);
  if (token !== undefined) return parseApiKey(token);
  throw new MeshError(Reason.INVALID_API_KEY, 'No API key: send it in the header "authorization: Bearer KEY".');
}

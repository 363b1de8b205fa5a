import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import type { KeyRole } from "#gen/helixmesh/type/v1/type_pb.ts";
import { bearerToken, parseApiKey, sameSecret } from "#kernel/api-key.ts";
import type { Clock } from "#kernel/clock.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import type { Database } from "../store/database.ts";
import { type StoredKey, findKey, isUsable } from "./keys.ts";

export interface KeyAuthenticator {
  /**
   * The key of an `authorization: Bearer` header. Throws INVALID_API_KEY for one that is missing, malformed, unknown,
   * expired or revoked, in the same words and time; PERMISSION_DENIED for another role; CONTROL_PLANE_UNAVAILABLE when
   * the database does not answer.
   */
  authenticateKey(header: string | null | undefined, role: KeyRole): Promise<StoredKey>;
  close(): void;
}

export interface KeyAuthenticatorOptions {
  readonly database: Database;
  readonly clock: Clock;
  /** How long a looked-up key may be trusted if the notice of a change is lost. Default 10,000. */
  readonly cacheMs?: number;
  /** Keys remembered, unknown ids included; the oldest goes first. Default 10,000. */
  readonly cacheEntries?: number;
}

interface Entry {
  /** Undefined: no such key, remembered so that guessing does not reach the database each time. */
  readonly key: StoredKey | undefined;
  readonly untilMs: number;
}

/** Compared with when there is no such key, so that unknown ids take as long as wrong secrets. */
const noSecret = new Uint8Array(32);

/** Looks keys up in the database, with a short cache that a change of any key empties. */
export async function createKeyAuthenticator(options: KeyAuthenticatorOptions): Promise<KeyAuthenticator> {
  const { database, clock, cacheMs = 10_000, cacheEntries = 10_000 } = options;
  const cache = new Map<string, Entry>();
  /** Grows when the cache is emptied: an answer that was under way then is not remembered. */
  let generation = 0;
  const stopListening = await database.onChanged((table) => {
    if (table !== "keys" && table !== "*") return;
    generation++;
    cache.clear();
  });

  async function lookUp(id: string): Promise<StoredKey | undefined> {
    const cached = cache.get(id);
    if (cached && cached.untilMs > clock.monotonicMs()) return cached.key;
    const askedIn = generation;
    let key: StoredKey | undefined;
    try {
      key = await findKey(database.sql, id);
    } catch (error) {
      throw new MeshError(
        Reason.CONTROL_PLANE_UNAVAILABLE,
        "The control plane's database does not answer; try again.",
        {
          cause: error,
        },
      );
    }
    if (askedIn === generation) {
      cache.delete(id);
      for (const oldest of cache.keys()) {
        if (cache.size < cacheEntries) break;
        cache.delete(oldest);
      }
      cache.set(id, { key, untilMs: clock.monotonicMs() + cacheMs });
    }
    return key;
  }

  return {
    async authenticateKey(header, role) {
      const token = bearerToken(header);
      const presented = token === undefined ? undefined : parseApiKey(token);
      if (!presented) throw invalidKey();
      const key = await lookUp(presented.id);
      const matches = sameSecret(presented.secretSha256, key?.secretSha256 ?? noSecret);
      if (!key || !matches || !isUsable(key, clock.nowMs())) throw invalidKey();
      if (key.role !== role) {
        throw new MeshError(
          Reason.PERMISSION_DENIED,
          `Key ${key.id} has another role than this call needs; use a key made for it.`,
        );
      }
      return key;
    },
    close: stopListening,
  };
}

function invalidKey(): MeshError {
  return new MeshError(
    Reason.INVALID_API_KEY,
    'The API key is missing, malformed, unknown, expired or revoked. Send it as "authorization: Bearer hm_…".',
  );
}

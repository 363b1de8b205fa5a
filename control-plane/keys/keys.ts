import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { KeyRole } from "#gen/helixmesh/type/v1/type_pb.ts";
import { createApiKey } from "#kernel/api-key.ts";
import type { Clock } from "#kernel/clock.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import type { Sql, Transaction } from "../store/database.ts";
import { decodePageToken, encodePageToken, pageSizeOf } from "../store/page.ts";
import { resolveProject } from "../tenants/projects.ts";

/** A key as stored: never its secret, only the hash. */
export interface StoredKey {
  readonly id: string;
  readonly name: string;
  readonly role: KeyRole;
  readonly projectId: string;
  readonly secretSha256: Uint8Array;
  /** Unix milliseconds, all three; null: never. */
  readonly createdAtMs: number;
  readonly expiresAtMs: number | null;
  readonly revokedAtMs: number | null;
}

export interface KeySpec {
  /** 1 to 128 characters. */
  readonly name: string;
  readonly role: KeyRole;
  /** Empty: the first project. */
  readonly project: string;
  /** Unix milliseconds; 0: never. */
  readonly expiresAtMs: number;
}

export interface CreatedKey {
  readonly key: StoredKey;
  /** The whole key text; stored nowhere, so this is the only time it can be shown. */
  readonly secret: string;
}

const roles = new Set<number>([KeyRole.INFERENCE, KeyRole.OPERATOR, KeyRole.ROUTER, KeyRole.NODE]);
const longestName = 128;

export async function createKey(sql: Sql | Transaction, clock: Clock, spec: KeySpec): Promise<CreatedKey> {
  const nowMs = clock.nowMs();
  if (spec.name.length < 1 || spec.name.length > longestName) {
    throw new MeshError(
      Reason.INVALID_REQUEST,
      `name has ${spec.name.length} characters; give it 1 to ${longestName}.`,
      {
        field: "name",
        limit: `${longestName} characters`,
      },
    );
  }
  if (!roles.has(spec.role)) {
    throw new MeshError(Reason.INVALID_REQUEST, `role ${spec.role} is none of INFERENCE, OPERATOR, ROUTER and NODE.`, {
      field: "role",
    });
  }
  if (spec.expiresAtMs !== 0 && spec.expiresAtMs <= nowMs) {
    throw new MeshError(
      Reason.INVALID_REQUEST,
      `expires_at_ms ${spec.expiresAtMs} is past; give a later moment, or 0 for never.`,
      {
        field: "expires_at_ms",
      },
    );
  }
  const project = await resolveProject(sql, spec.project);
  const { id, secretSha256, text } = createApiKey();
  const expiresAtMs = spec.expiresAtMs || null;
  await sql`
    INSERT INTO keys (id, secret_sha256, role, project_id, name, created_at, expires_at)
    VALUES (${id}, ${secretSha256}, ${spec.role}, ${project.id}, ${spec.name}, ${sql.types.instant(nowMs)},
            ${expiresAtMs === null ? null : sql.types.instant(expiresAtMs)})`;
  const { name, role } = spec;
  return {
    key: { id, name, role, projectId: project.id, secretSha256, createdAtMs: nowMs, expiresAtMs, revokedAtMs: null },
    secret: text,
  };
}

export interface KeyPage {
  readonly keys: readonly StoredKey[];
  /** Empty on the last page. */
  readonly nextPageToken: string;
}

/** Sorted by creation, revoked ones included. */
export async function listKeys(
  sql: Sql,
  page: { readonly pageSize: number; readonly pageToken: string },
): Promise<KeyPage> {
  const size = pageSizeOf(page.pageSize);
  const after = decodePageToken<[number, string]>(page.pageToken, [0, ""]);
  const keys = await sql<StoredKey[]>`
    SELECT ${columns(sql)} FROM keys
    ${after ? sql`WHERE (created_at, id) > (${sql.types.instant(after[0])}, ${after[1]})` : sql``}
    ORDER BY created_at, id LIMIT ${size + 1}`;
  const last = keys.length > size ? keys[size - 1] : undefined;
  return { keys: keys.slice(0, size), nextPageToken: last ? encodePageToken([last.createdAtMs, last.id]) : "" };
}

/** Idempotent: the first revocation's time stays. Throws NOT_FOUND. */
export async function revokeKey(sql: Sql, clock: Clock, id: string): Promise<void> {
  const found = await sql`
    UPDATE keys SET revoked_at = coalesce(revoked_at, ${sql.types.instant(clock.nowMs())}) WHERE id = ${id} RETURNING id`;
  if (found.length === 0) throw new MeshError(Reason.NOT_FOUND, `There is no key "${id}".`, { field: "key_id" });
}

export async function findKey(sql: Sql | Transaction, id: string): Promise<StoredKey | undefined> {
  const [key] = await sql<StoredKey[]>`SELECT ${columns(sql)} FROM keys WHERE id = ${id}`;
  return key;
}

/** Keys of one role that are neither revoked nor expired, sorted by id: what a router must know. */
export function usableKeys(sql: Sql | Transaction, clock: Clock, role: KeyRole): Promise<StoredKey[]> {
  return sql<StoredKey[]>`
    SELECT ${columns(sql)} FROM keys
    WHERE role = ${role} AND revoked_at IS NULL
      AND (expires_at IS NULL OR expires_at > ${sql.types.instant(clock.nowMs())})
    ORDER BY id`;
}

export function isUsable(key: StoredKey, nowMs: number): boolean {
  return key.revokedAtMs === null && (key.expiresAtMs === null || key.expiresAtMs > nowMs);
}

function columns(sql: Sql | Transaction) {
  return sql`id, name, role, project_id, secret_sha256,
    created_at AS created_at_ms, expires_at AS expires_at_ms, revoked_at AS revoked_at_ms`;
}

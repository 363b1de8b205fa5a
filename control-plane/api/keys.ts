import { create } from "@bufbuild/protobuf";
import type { ServiceImpl } from "@connectrpc/connect";
import { type Key, KeySchema, type KeyService } from "#gen/helixmesh/control/v1/control_pb.ts";
import type { Clock } from "#kernel/clock.ts";
import { type StoredKey, createKey, listKeys, revokeKey } from "../keys/keys.ts";
import type { Sql } from "../store/database.ts";
import { checkInstant, checkText } from "../checks/field.ts";

export function keyService(sql: Sql, clock: Clock): ServiceImpl<typeof KeyService> {
  return {
    async createKey(request) {
      const expiresAtMs = checkInstant("expires_at_ms", request.expiresAtMs);
      checkText("name", request.name, { min: 1, max: 128 });
      checkText("project", request.project, { max: 128 });
      const { name, role, project } = request;
      const { key, secret } = await createKey(sql, clock, { name, role, project, expiresAtMs });
      return { key: toKey(key), secret };
    },

    async listKeys(request) {
      const { keys, nextPageToken } = await listKeys(sql, request);
      return { keys: keys.map(toKey), nextPageToken };
    },

    async revokeKey(request) {
      await revokeKey(sql, clock, checkText("key_id", request.keyId, { min: 1, max: 128 }));
      return {};
    },
  };
}

function toKey(key: StoredKey): Key {
  return create(KeySchema, {
    keyId: key.id,
    name: key.name,
    role: key.role,
    project: key.projectId,
    createdAtMs: BigInt(key.createdAtMs),
    expiresAtMs: BigInt(key.expiresAtMs ?? 0),
    revokedAtMs: BigInt(key.revokedAtMs ?? 0),
  });
}

import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import type { Sql, Transaction } from "../store/database.ts";

interface Renewal {
  readonly nodeId: string;
  readonly runningCalls: number;
  readonly resolve: (expiresAtMs: number) => void;
  readonly reject: (error: unknown) => void;
}

/**
 * Renews leases. Heartbeats that arrive while a write is under way share the next one, so that a thousand nodes cost a
 * few statements a second and each answer is still a committed fact. Time is the database's, which all control planes
 * share. A lease that is renewed leaves the columns that are notified alone, unless the node was offline.
 */
export class Leases {
  readonly #sql: Sql;
  readonly #leaseMs: number;
  #waiting: Renewal[] = [];
  #writing = false;

  constructor(sql: Sql, leaseMs: number) {
    this.#sql = sql;
    this.#leaseMs = leaseMs;
  }

  /** Resolves with the lease's end, Unix milliseconds; NOT_FOUND when the node is not registered. */
  renew(nodeId: string, runningCalls: number): Promise<number> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ nodeId, runningCalls, resolve, reject });
      if (!this.#writing) void this.#write();
    });
  }

  /** Answers every renewal that waits; never rejects. */
  async #write(): Promise<void> {
    this.#writing = true;
    while (this.#waiting.length > 0) {
      const batch = this.#waiting;
      this.#waiting = [];
      try {
        const expiries = await this.#renewAll(batch);
        for (const renewal of batch) {
          const expiresAtMs = expiries.get(renewal.nodeId);
          if (expiresAtMs === undefined) renewal.reject(nodeUnknown());
          else renewal.resolve(expiresAtMs);
        }
      } catch (error) {
        for (const renewal of batch) renewal.reject(error);
      }
    }
    this.#writing = false;
  }

  async #renewAll(batch: readonly Renewal[]): Promise<Map<string, number>> {
    const calls = new Map(batch.map((renewal) => [renewal.nodeId, renewal.runningCalls]));
    const sql = this.#sql;
    const rows = await sql<{ id: string; leaseExpiresAt: number }[]>`
      UPDATE nodes SET
        lease_expires_at = now() + ${this.#leaseMs} * interval '1 millisecond',
        last_heartbeat_at = now(), running_calls = beat.calls, online = true
      FROM unnest(${[...calls.keys()]}::text[], ${[...calls.values()]}::bigint[]) AS beat (id, calls)
      WHERE nodes.id = beat.id
      RETURNING nodes.id, nodes.lease_expires_at`;
    return new Map(rows.map((row) => [row.id, row.leaseExpiresAt]));
  }
}

export function nodeUnknown(): MeshError {
  return new MeshError(Reason.NOT_FOUND, "This node is not registered; register again.", { field: "node_id" });
}

/** Writes down whose lease has ended; returns their names. */
export async function expireLeases(transaction: Transaction): Promise<string[]> {
  const rows = await transaction<{ name: string }[]>`
    UPDATE nodes SET online = false WHERE online AND lease_expires_at < now() RETURNING name`;
  return rows.map((row) => row.name);
}

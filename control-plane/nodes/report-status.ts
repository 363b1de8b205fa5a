import { create, toBinary } from "@bufbuild/protobuf";
import { HostLoadSchema, ReplicaStatusSchema, type ReportStatusRequest } from "#gen/helixmesh/node/v1/node_pb.ts";
import { ReplicaState } from "#gen/helixmesh/type/v1/type_pb.ts";
import { checkCount, checkText, invalid } from "../checks/field.ts";
import type { Sql } from "../store/database.ts";

const mostReplicas = 1_000;
const longestMessage = 2_048;

/** Writes down the full state of a node. Replicas that were removed meanwhile are passed over. */
export async function reportStatus(sql: Sql, request: ReportStatusRequest): Promise<void> {
  checkStatus(request);
  const ids = request.replicas.map((status) => status.replicaId);
  const states = request.replicas.map((status) => status.state);
  const statuses = request.replicas.map((status) =>
    Buffer.from(
      toBinary(
        ReplicaStatusSchema,
        // An engine's message may quote a whole log; the start says what happened.
        create(ReplicaStatusSchema, { ...status, message: status.message.slice(0, longestMessage) }),
      ),
    ).toString("hex"),
  );
  const load = request.host ? Buffer.from(toBinary(HostLoadSchema, request.host)) : Buffer.alloc(0);
  await sql.begin(async (transaction) => {
    await transaction`
      UPDATE nodes SET load = ${load}, draining = ${request.draining}
      WHERE id = ${request.nodeId} AND (load, draining) IS DISTINCT FROM (${load}::bytea, ${request.draining}::boolean)`;
    await transaction`
      UPDATE replicas SET state = report.state, status = decode(report.status, 'hex')
      FROM unnest(${ids}::text[], ${states}::smallint[], ${statuses}::text[]) AS report (id, state, status)
      WHERE replicas.id = report.id AND replicas.node_id = ${request.nodeId}
        AND (replicas.state, replicas.status) IS DISTINCT FROM (report.state, decode(report.status, 'hex'))`;
    // Told to end and no longer reported: the agent has done it, and placement may forget it.
    await transaction`
      UPDATE replicas SET state = ${ReplicaState.ABSENT}
      WHERE node_id = ${request.nodeId} AND draining AND state <> ${ReplicaState.ABSENT}
        AND id <> ALL(${ids}::text[])`;
  });
}

function checkStatus(request: ReportStatusRequest): void {
  checkCount("replicas", request.replicas, mostReplicas);
  checkCount("host.gpus", request.host?.gpus ?? [], 256);
  const seen = new Set<string>();
  for (const [index, status] of request.replicas.entries()) {
    checkText(`replicas[${index}].replica_id`, status.replicaId, { min: 1, max: 128 });
    if (seen.has(status.replicaId)) throw invalid(`replicas[${index}].replica_id`, "is listed twice");
    seen.add(status.replicaId);
    if (status.state < ReplicaState.ABSENT || status.state > ReplicaState.FAILED) {
      throw invalid(`replicas[${index}].state`, `is ${status.state}; it takes a state from ABSENT to FAILED`);
    }
  }
}

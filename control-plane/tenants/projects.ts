import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import type { Clock } from "#kernel/clock.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import type { Sql, Transaction } from "../store/database.ts";

/** What pays for calls; belongs to an organisation. Its id is chosen by people and is what every API calls "project". */
export interface Project {
  readonly id: string;
  readonly organisationId: string;
  readonly name: string;
  readonly createdAtMs: number;
}

export interface ProjectSpec {
  readonly organisationId: string;
  readonly projectId: string;
}

/** Makes the organisation and the project where they are missing; ids serve as first names. Idempotent. */
export async function ensureProject(sql: Sql | Transaction, clock: Clock, spec: ProjectSpec): Promise<Project> {
  const nowMs = clock.nowMs();
  await sql`
    INSERT INTO organisations (id, name, created_at)
    VALUES (${spec.organisationId}, ${spec.organisationId}, ${sql.types.instant(nowMs)}) ON CONFLICT DO NOTHING`;
  await sql`
    INSERT INTO projects (id, organisation_id, name, created_at)
    VALUES (${spec.projectId}, ${spec.organisationId}, ${spec.projectId}, ${sql.types.instant(nowMs)})
    ON CONFLICT DO NOTHING`;
  return resolveProject(sql, spec.projectId);
}

/** The project of that id; for an empty id the first one ever made. Throws NOT_FOUND. */
export async function resolveProject(sql: Sql | Transaction, id: string): Promise<Project> {
  const [project] = await sql<Project[]>`
    SELECT id, organisation_id, name, created_at AS created_at_ms FROM projects
    ${id === "" ? sql`` : sql`WHERE id = ${id}`} ORDER BY created_at, id LIMIT 1`;
  if (project) return project;
  const message = id === "" ? "There is no project yet." : `There is no project "${id}".`;
  throw new MeshError(Reason.NOT_FOUND, message, { field: "project" });
}

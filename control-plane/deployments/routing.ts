import { type JsonObject, fromJson, toJson } from "@bufbuild/protobuf";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { type DeploymentRouting, DeploymentRoutingSchema } from "#gen/helixmesh/type/v1/type_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { invalid, quote } from "../checks/field.ts";
import type { Transaction } from "../store/database.ts";

/** The column `deployments.routing`. */
export type StoredRouting = JsonObject | null;

const field = "deployment.routing.fallback_models";

export function readRouting(stored: StoredRouting): DeploymentRouting | undefined {
  // A newer control plane on the same database may have written more.
  return stored === null ? undefined : fromJson(DeploymentRoutingSchema, stored, { ignoreUnknownFields: true });
}

export function routingColumn(sql: Transaction, routing: DeploymentRouting | undefined) {
  return routing === undefined ? null : sql.json(toJson(DeploymentRoutingSchema, routing));
}

/**
 * Refuses fallbacks to models that are not registered, and those through which a model's calls would come back to it.
 * The models stay registered, and other deployments' fallbacks the same, until the transaction ends.
 */
export async function checkFallbacks(
  transaction: Transaction,
  deployment: string,
  model: string,
  fallbacks: readonly string[],
): Promise<void> {
  if (fallbacks.length === 0) return;
  // Two deployments that fall back to each other's model may be put at once.
  await transaction`LOCK TABLE deployments IN SHARE ROW EXCLUSIVE MODE`;
  const found = await transaction<{ name: string }[]>`
    SELECT name FROM models WHERE name = ANY(${[...fallbacks]}::text[]) ORDER BY name FOR SHARE`;
  for (const [index, name] of fallbacks.entries()) {
    if (found.some((row) => row.name === name)) continue;
    const [alias] = await transaction<{ model: string }[]>`SELECT model FROM alias_models WHERE name = ${name}`;
    const path = `${field}[${index}]`;
    const advice = alias ? `; it is an alias of ${quote(alias.model)}: name that` : "";
    throw new MeshError(Reason.NOT_FOUND, `${path} ${quote(name)} is not a registered model${advice}`, { field: path });
  }
  const others = await transaction<{ model: string; routing: JsonObject }[]>`
    SELECT model, routing FROM deployments WHERE routing IS NOT NULL AND name <> ${deployment} ORDER BY name`;
  const loop = fallbackLoop(
    others.map((row) => ({ model: row.model, fallbacks: readRouting(row.routing)?.fallbackModels ?? [] })),
    model,
    fallbacks,
  );
  if (loop) throw invalid(field, `lead back to the deployment's own model: ${loop.join(" → ")}`);
}

/** Deployments that fall back to `model`. */
export async function deploymentsFallingBackTo(sql: Transaction, model: string): Promise<string[]> {
  const rows = await sql<{ name: string }[]>`
    SELECT name FROM deployments WHERE routing -> 'fallbackModels' ? ${model} ORDER BY name LIMIT 5`;
  return rows.map((row) => row.name);
}

/** The way from `model` over `fallbacks` and those of the other deployments back to it. */
function fallbackLoop(
  others: readonly { readonly model: string; readonly fallbacks: readonly string[] }[],
  model: string,
  fallbacks: readonly string[],
): string[] | undefined {
  const seen = new Set<string>();
  const open = fallbacks.map((name) => [model, name]);
  for (let path = open.shift(); path; path = open.shift()) {
    const last = path.at(-1) ?? "";
    if (last === model) return path;
    if (seen.has(last)) continue;
    seen.add(last);
    for (const other of others) {
      if (other.model === last) for (const name of other.fallbacks) open.push([...path, name]);
    }
  }
  return undefined;
}

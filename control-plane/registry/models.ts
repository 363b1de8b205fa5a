import { create } from "@bufbuild/protobuf";
import { type Model, ModelSchema } from "#gen/helixmesh/control/v1/control_pb.ts";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import type { Clock } from "#kernel/clock.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { quote } from "../checks/field.ts";
import { deploymentsFallingBackTo } from "../deployments/routing.ts";
import type { Page } from "../checks/page.ts";
import { effectivePrice, pricesOf } from "../prices/prices.ts";
import type { Sql, Transaction } from "../store/database.ts";
import { chainFault } from "./alias-chain.ts";

interface ModelRow {
  readonly name: string;
  readonly version: string;
  readonly source: string;
  readonly sha256: string;
  readonly createdAt: number;
  readonly aliases: readonly string[];
}

/** A model with its current version and aliases. */
function selectModels(sql: Sql, where: ReturnType<Sql>) {
  return sql<ModelRow[]>`
    SELECT m.name, m.created_at, v.version, v.source, v.sha256,
           ARRAY(SELECT a.name FROM alias_models a WHERE a.model = m.name ORDER BY a.name) AS aliases
    FROM models m
    JOIN LATERAL (SELECT * FROM model_versions WHERE model = m.name ORDER BY ordinal DESC LIMIT 1) v ON true
    WHERE ${where}`;
}

/** With the price that counts now. */
async function withPrices(sql: Sql, clock: Clock, rows: readonly ModelRow[]): Promise<Model[]> {
  const names = rows.map((row) => row.name);
  const prices = await pricesOf(sql, names);
  return rows.map((row) => {
    const price = effectivePrice(prices.get(row.name), clock.nowMs());
    return create(ModelSchema, {
      name: row.name,
      version: row.version,
      source: row.source,
      sha256: row.sha256,
      created: BigInt(Math.floor(row.createdAt / 1_000)),
      aliases: [...row.aliases],
      ...(price && { price: { ...price, effectiveAtMs: BigInt(price.effectiveAtMs) } }),
    });
  });
}

/** By name or alias. */
export async function getModel(sql: Sql, clock: Clock, name: string): Promise<Model> {
  const rows = await selectModels(
    sql,
    sql`m.name = ${name} OR m.name = (SELECT model FROM alias_models WHERE name = ${name})`,
  );
  const [model] = await withPrices(sql, clock, rows);
  if (!model) throw modelNotFound("name", name);
  return model;
}

/** One more than the page's limit, if there are. */
export async function listModels(sql: Sql, clock: Clock, page: Page): Promise<Model[]> {
  const rows = await selectModels(sql, sql`m.name > ${page.after} ORDER BY m.name LIMIT ${page.limit + 1}`);
  return withPrices(sql, clock, rows);
}

/** Registers a checked model, or a version of one that is not there yet; price and aliases are not its concern. */
export async function insertModelVersion(transaction: Transaction, model: Model): Promise<void> {
  await lockNames(transaction);
  const [alias] = await transaction<{ model: string }[]>`SELECT model FROM alias_models WHERE name = ${model.name}`;
  if (alias) {
    throw new MeshError(
      Reason.ALREADY_EXISTS,
      `model.name ${quote(model.name)} is an alias of ${quote(alias.model)}; remove the alias or choose another name`,
      { field: "model.name" },
    );
  }
  await transaction`INSERT INTO models (name, created_at) VALUES (${model.name}, now()) ON CONFLICT (name) DO NOTHING`;
  const versions = await transaction<{ version: string }[]>`
    SELECT version FROM model_versions WHERE model = ${model.name}`;
  const version = model.version || String(versions.length + 1);
  if (versions.some((row) => row.version === version)) {
    throw new MeshError(
      Reason.ALREADY_EXISTS,
      `version ${quote(version)} of model ${quote(model.name)} exists; a version never changes, so give a new one`,
      { field: "model.version" },
    );
  }
  await transaction`
    INSERT INTO model_versions (model, version, source, sha256, created_at)
    VALUES (${model.name}, ${version}, ${model.source}, ${model.sha256}, now())`;
  // New replicas take over from those of the version before; placement compares what they run.
  await transaction`UPDATE deployments SET generation = generation + 1 WHERE model = ${model.name}`;
}

export async function deleteModel(sql: Sql, name: string): Promise<void> {
  await sql.begin(async (transaction) => {
    const [row] = await transaction`SELECT name FROM models WHERE name = ${name} FOR UPDATE`;
    if (!row) throw modelNotFound("name", name);
    const users = await transaction<{ name: string }[]>`
      SELECT name FROM deployments WHERE model = ${name} ORDER BY name LIMIT 5`;
    if (users.length > 0) {
      const names = users.map((user) => user.name).join(", ");
      throw new MeshError(Reason.CONFLICT, `model ${quote(name)} is used by deployments: ${names}; delete them first`, {
        field: "name",
      });
    }
    const fallers = await deploymentsFallingBackTo(transaction, name);
    if (fallers.length > 0) {
      const message = `model ${quote(name)} is a fallback of deployments: ${fallers.join(", ")}; take it out of their routing first`;
      throw new MeshError(Reason.CONFLICT, message, { field: "name" });
    }
    await transaction`DELETE FROM models WHERE name = ${name}`;
  });
}

/** Points a name at a model or another alias. With `mayMove` also one that points elsewhere. */
export async function setAlias(
  transaction: Transaction,
  { field, alias, target, mayMove }: { field: string; alias: string; target: string; mayMove: boolean },
): Promise<void> {
  await lockNames(transaction);
  const models = await transaction<{ name: string }[]>`SELECT name FROM models WHERE name IN (${alias}, ${target})`;
  if (models.some(({ name }) => name === alias)) {
    throw new MeshError(Reason.ALREADY_EXISTS, `${field} ${quote(alias)} is the name of a model`, { field });
  }
  const rows = await transaction<{ name: string; target: string }[]>`
    SELECT name, coalesce(model, alias) AS target FROM aliases`;
  const aliases = new Map(rows.map((row) => [row.name, row.target]));
  const isModel = models.some(({ name }) => name === target);
  if (!isModel && !aliases.has(target) && target !== alias) throw modelNotFound("model", target);
  const old = aliases.get(alias);
  if (old !== undefined && old !== target && !mayMove) {
    throw new MeshError(
      Reason.ALREADY_EXISTS,
      `${field} ${quote(alias)} points at ${quote(old)}; move it with SetAlias`,
      { field },
    );
  }
  const fault = chainFault(aliases, alias, target);
  if (fault) throw fault;
  await transaction`
    INSERT INTO aliases (name, model, alias, created_at)
    VALUES (${alias}, ${isModel ? target : null}, ${isModel ? null : target}, now())
    ON CONFLICT (name) DO UPDATE SET model = excluded.model, alias = excluded.alias`;
}

export async function removeAlias(sql: Sql, alias: string): Promise<void> {
  await sql.begin(async (transaction) => {
    await lockNames(transaction);
    const users = await transaction<{ name: string }[]>`
      SELECT name FROM aliases WHERE alias = ${alias} ORDER BY name LIMIT 5`;
    if (users.length > 0) {
      const names = users.map((user) => user.name).join(", ");
      const message = `other aliases point at alias ${quote(alias)}: ${names}; move or remove them first`;
      throw new MeshError(Reason.CONFLICT, message, { field: "alias" });
    }
    const removed = await transaction`DELETE FROM aliases WHERE name = ${alias} RETURNING name`;
    if (removed.length > 0) return;
    throw new MeshError(Reason.NOT_FOUND, `no alias ${quote(alias)}`, { field: "alias" });
  });
}

export function modelNotFound(field: string, name: string): MeshError {
  return new MeshError(Reason.NOT_FOUND, `no model ${quote(name)} is registered`, { field });
}

/** Models and aliases share one space of names; this makes two writers of it wait for each other. */
async function lockNames(transaction: Transaction): Promise<void> {
  await transaction`LOCK TABLE aliases IN SHARE ROW EXCLUSIVE MODE`;
}

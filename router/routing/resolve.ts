import type { Deployment, Model } from "#gen/helixmesh/discovery/v1/discovery_pb.ts";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import type { IndexedSnapshot } from "../discovery/snapshot.ts";

/** Aliases from a name to its model. */
const longestChain = 8;

export interface ResolvedModel {
  readonly model: Model;
  /** At least one. */
  readonly deployments: readonly Deployment[];
}

/**
 * Name → alias → … → model → what serves it. A model's own name wins over an alias that is spelled the same.
 * @throws MeshError MODEL_NOT_FOUND
 */
export function resolve(snapshot: IndexedSnapshot, name: string): ResolvedModel {
  const chain = [name];
  let model = snapshot.models.get(name);
  for (let next = snapshot.aliases.get(name)?.model; !model; next = snapshot.aliases.get(next)?.model) {
    if (next === undefined) throw notFound(unknownName(chain));
    if (chain.includes(next)) throw notFound(`the aliases ${path([...chain, next])} go round in a circle`);
    if (chain.length > longestChain) {
      throw notFound(`the aliases ${path(chain)} → … go on for more than ${longestChain}`);
    }
    chain.push(next);
    model = snapshot.models.get(next);
  }
  const deployments = snapshot.deploymentsOfModel.get(model.name);
  if (!deployments) throw notFound(`${JSON.stringify(model.name)} is registered, but no deployment serves it`);
  return { model, deployments };
}

function unknownName(chain: readonly string[]): string {
  const last = JSON.stringify(chain.at(-1));
  if (chain.length === 1) return `no model or alias is named ${last}; list the models to see which there are`;
  return `${path(chain)} ends at ${last}, which is neither a model nor an alias`;
}

function path(chain: readonly string[]): string {
  return chain.map((name) => JSON.stringify(name)).join(" → ");
}

function notFound(what: string): MeshError {
  return new MeshError(Reason.MODEL_NOT_FOUND, `model: ${what}.`, { field: "model" });
}

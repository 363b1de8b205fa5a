import type { MeshError } from "#kernel/mesh-error.ts";
import { invalid, quote } from "../checks/field.ts";

/** From an alias to its model at most; resolving stays cheap and a chain can be read. */
const mostSteps = 8;

/**
 * What is wrong with pointing `alias` at `target`, when every alias of `aliases` (name → what it points at) ends at a
 * model: it would lead back to itself, or be too long for itself or for one that leads to it.
 */
export function chainFault(aliases: ReadonlyMap<string, string>, alias: string, target: string): MeshError | undefined {
  const down = chainFrom(aliases, target, alias);
  if (down.at(-1) === alias) {
    return invalid("model", `${quote(target)} leads back to the alias itself: ${[alias, ...down].join(" → ")}`);
  }
  const chain = [...longestTo(aliases, alias), alias, ...down];
  // Aliases come first and the model last, so there are as many steps as aliases.
  if (chain.length - 1 <= mostSteps) return undefined;
  return invalid(
    "model",
    `${quote(target)} makes a chain of ${chain.length - 1} aliases: ${chain.join(" → ")}; at most ${mostSteps}`,
    `${mostSteps} aliases`,
  );
}

/** `name` and what it leads to, up to a model or to `stop`. */
function chainFrom(aliases: ReadonlyMap<string, string>, name: string, stop: string): string[] {
  const chain = [name];
  for (let at = name; at !== stop;) {
    const next = aliases.get(at);
    if (next === undefined) break;
    chain.push(next);
    at = next;
  }
  return chain;
}

/** The longest chain of aliases that lead to `alias`, farthest first, without it. */
function longestTo(aliases: ReadonlyMap<string, string>, alias: string): string[] {
  let longest: string[] = [];
  for (const name of aliases.keys()) {
    const chain = chainFrom(aliases, name, alias);
    if (chain.at(-1) === alias && chain.length - 1 > longest.length) longest = chain.slice(0, -1);
  }
  return longest;
}

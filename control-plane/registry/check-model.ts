import type { Model } from "#gen/helixmesh/control/v1/control_pb.ts";
import { checkCount, checkText, invalid, quote } from "../checks/field.ts";

const modelName = {
  min: 1,
  max: 128,
  pattern: /^[a-zA-Z0-9._/-]+$/,
  allowed: "a-z, A-Z, 0-9, dot, underscore, hyphen and slash",
};
const mostAliases = 100;

export function checkModelName(field: string, name: string): string {
  return checkText(field, name, modelName);
}

/** Checks what a caller may set of a model. */
export function checkModel(model: Model): void {
  checkModelName("model.name", model.name);
  checkText("model.version", model.version, { ...modelName, min: 0, max: 64, pattern: /^[a-zA-Z0-9._/-]*$/ });
  checkSource("model.source", model.source);
  if (model.sha256 !== "" && !/^[0-9a-f]{64}$/.test(model.sha256)) {
    throw invalid("model.sha256", `is ${quote(model.sha256)}; it takes 64 lower-case hex digits, or nothing`);
  }
  checkCount("model.aliases", model.aliases, mostAliases);
  for (const [index, alias] of model.aliases.entries()) {
    checkModelName(`model.aliases[${index}]`, alias);
    if (alias === model.name) throw invalid(`model.aliases[${index}]`, `is the model's own name, ${quote(alias)}`);
    if (model.aliases.indexOf(alias) !== index) throw invalid(`model.aliases[${index}]`, `repeats ${quote(alias)}`);
  }
}

/** Empty is for models that only the simulator serves. */
function checkSource(field: string, source: string): void {
  checkText(field, source, { max: 4_096 });
  if (source === "" || /^builtin:[a-z0-9.-]+$/.test(source) || /^file:\/\/\/[^\0]+$/.test(source)) return;
  throw invalid(field, `is ${quote(source)}; it takes builtin:NAME or file:///path/on/the/node`);
}

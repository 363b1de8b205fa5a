import type { EngineKind } from "#gen/helixmesh/type/v1/type_pb.ts";
import { isZone, zoneRange } from "#kernel/zone.ts";
import { type EngineName, engineKinds } from "./engines/create-engine.ts";

/** Throws an error that names the setting, the value and what is allowed. */
export function checkNodeName(name: string): string {
  if (/^[a-z0-9-]{1,63}$/.test(name)) return name;
  throw new Error(`--name is "${name}"; it takes 1 to 63 characters of a-z, 0-9 and hyphen`);
}

export function checkZone(zone: string): string {
  if (isZone(zone)) return zone;
  throw new Error(`--zone is "${zone}"; it takes ${zoneRange}`);
}

export function parseLabels(labels: readonly string[]): Record<string, string> {
  return Object.fromEntries(
    labels.map((label) => {
      const at = label.indexOf("=");
      if (at <= 0) throw new Error(`--labels has "${label}"; each label is key=value`);
      return [label.slice(0, at), label.slice(at + 1)];
    }),
  );
}

export function parseEngines(names: readonly string[]): EngineKind[] {
  return names.map((name) => {
    if (isEngineName(name)) return engineKinds[name];
    throw new Error(`--engines has "${name}"; there are ${Object.keys(engineKinds).join(", ")}`);
  });
}

function isEngineName(name: string): name is EngineName {
  return Object.hasOwn(engineKinds, name);
}

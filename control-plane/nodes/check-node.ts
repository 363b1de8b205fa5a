import type { RegisterRequest } from "#gen/helixmesh/node/v1/node_pb.ts";
import { isZone, zoneRange } from "#kernel/zone.ts";
import { checkCount, checkText, invalid, quote } from "../checks/field.ts";
import { checkLabels } from "../deployments/check-deployment.ts";

const mostGpus = 256;

/** Checks a registration whole. */
export function checkRegistration(request: RegisterRequest): void {
  checkText("name", request.name, { min: 1, max: 63, pattern: /^[a-z0-9-]+$/, allowed: "a-z, 0-9 and hyphen" });
  checkLinkAddress("link_address", request.linkAddress);
  checkText("agent_version", request.agentVersion, { max: 128 });
  checkLabels("labels", request.labels);
  if (!isZone(request.zone)) throw invalid("zone", `is ${quote(request.zone)}; it takes ${zoneRange}`);
  if (request.engines.length === 0) throw invalid("engines", "must name at least one engine that the agent can run");
  checkCount("engines", request.engines, 32);
  // An engine that only a newer control plane knows does no harm: no deployment here asks for it.
  for (const [index, engine] of request.engines.entries()) {
    if (engine < 1 || engine > 32_767) throw invalid(`engines[${index}]`, "must be one of EngineKind");
  }
  checkText("host.hostname", request.host?.hostname ?? "", { max: 255 });
  checkText("host.platform", request.host?.platform ?? "", { max: 128 });
  checkCount("host.gpus", request.host?.gpus ?? [], mostGpus);
  for (const [index, gpu] of (request.host?.gpus ?? []).entries()) {
    checkText(`host.gpus[${index}].name`, gpu.name, { max: 255 });
    checkText(`host.gpus[${index}].uuid`, gpu.uuid, { max: 255 });
  }
}

/** `host:port`, where an IPv6 address stands in brackets. */
function checkLinkAddress(field: string, address: string): void {
  checkText(field, address, { min: 1, max: 255 });
  const port = Number(/^(?:\[[0-9a-fA-F:.%]+\]|[^:[\]\s/]+):([0-9]{1,5})$/.exec(address)?.[1] ?? 0);
  if (port < 1 || port > 65_535) {
    throw invalid(field, `is ${quote(address)}; it takes host:port with a port of 1 to 65535`);
  }
}

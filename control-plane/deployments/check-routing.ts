import { create } from "@bufbuild/protobuf";
import { type DeploymentRouting, DeploymentRoutingSchema } from "#gen/helixmesh/type/v1/type_pb.ts";
import { routingPolicies } from "#kernel/routing-policies.ts";
import { checkCount, checkRange, checkText, invalid, quote } from "../checks/field.ts";
import { checkModelName } from "../registry/check-model.ts";

const mostFallbacks = 8;
/** Ten minutes: longer than any prompt takes. */
const longestHedgeMs = 600_000;

/** What a caller may say of routing, but for whether the fallback models are there. `model` is the deployment's. */
export function checkRouting(field: string, routing: DeploymentRouting, model: string): DeploymentRouting {
  const { policy, weight, canary, shadowPercent, hedgeAfterMs, hedgePercent, fallbackModels } = routing;
  if (policy !== "" && !routingPolicies.some((known) => known === policy)) {
    const known = routingPolicies.join(", ");
    throw invalid(`${field}.policy`, `is ${quote(policy)}; it takes ${known}, or nothing for the router's default`);
  }
  checkRange(`${field}.weight`, weight, 1_000);
  checkText(`${field}.canary`, canary, {
    max: 128,
    // It is compared with a header's value, which has no spaces around it.
    pattern: /^([!-~]([ -~]*[!-~])?)?$/,
    allowed: "printable ASCII characters without spaces around them",
  });
  checkRange(`${field}.shadow_percent`, shadowPercent, 100, "per cent");
  checkRange(`${field}.hedge_after_ms`, hedgeAfterMs, longestHedgeMs, "milliseconds");
  checkRange(`${field}.hedge_percent`, hedgePercent, 100, "per cent");
  if (hedgePercent > 0 && hedgeAfterMs === 0) {
    throw invalid(`${field}.hedge_percent`, `is ${hedgePercent}, but there are no hedges without hedge_after_ms`);
  }
  checkCount(`${field}.fallback_models`, fallbackModels, mostFallbacks);
  for (const [index, name] of fallbackModels.entries()) {
    const path = `${field}.fallback_models[${index}]`;
    checkModelName(path, name);
    if (name === model) throw invalid(path, `is the deployment's own model, ${quote(name)}`);
    if (fallbackModels.indexOf(name) !== index) throw invalid(path, `repeats ${quote(name)}`);
  }
  // Without fields of a newer contract, which nobody here checked.
  return create(DeploymentRoutingSchema, {
    policy,
    weight,
    canary,
    shadowPercent,
    hedgeAfterMs,
    hedgePercent,
    fallbackModels,
  });
}

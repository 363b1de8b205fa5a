import type { MessageInitShape } from "@bufbuild/protobuf";
import type { DeploymentRouting, DeploymentRoutingSchema } from "#gen/helixmesh/type/v1/type_pb.ts";
import type { Input, Option } from "./command.ts";

/** How a deployment's calls are shared and served, as flags. */
export const routingOptions: readonly Option[] = [
  {
    name: "policy",
    value: "POLICY",
    doc: "What picks a replica: predicted-ttft, prefix-affinity, least-loaded, power-of-two, round-robin, random or consistent-hash. [the router's default]",
  },
  { name: "weight", value: "N", doc: "Share of the model's calls beside its other deployments, 0 to 1000. [0]" },
  { name: "canary", value: "VALUE", doc: "Calls with this x-helixmesh-canary header come here." },
  { name: "shadow-percent", value: "N", doc: "Copy these per cent of the other deployments' calls here. [0]" },
  { name: "hedge-after-ms", value: "MS", doc: "Ask a second replica when there is no first token by then. [never]" },
  { name: "hedge-percent", value: "N", doc: "Most hedges per 100 calls. [5]" },
  { name: "fallback", value: "MODEL", doc: "Model to ask when no replica of this one can; in order.", multiple: true },
];

/** Undefined when no flag says anything: the defaults. */
export function readRouting(input: Input): MessageInitShape<typeof DeploymentRoutingSchema> | undefined {
  const given = routingOptions.some(({ name }) => input.text(name) !== undefined || input.list(name).length > 0);
  if (!given) return undefined;
  return {
    policy: input.text("policy") ?? "",
    weight: input.integer("weight") ?? 0,
    canary: input.text("canary") ?? "",
    shadowPercent: input.integer("shadow-percent") ?? 0,
    hedgeAfterMs: input.integer("hedge-after-ms") ?? 0,
    hedgePercent: input.integer("hedge-percent") ?? 0,
    fallbackModels: [...input.list("fallback")],
  };
}

/** In a line; "-" for the defaults. */
export function routingWords(routing: DeploymentRouting | undefined): string {
  if (!routing) return "-";
  const { policy, weight, canary, shadowPercent, hedgeAfterMs, hedgePercent, fallbackModels } = routing;
  const words = [
    policy,
    weight > 0 ? `weight ${weight}` : "",
    canary === "" ? "" : `canary ${canary}`,
    shadowPercent > 0 ? `shadow ${shadowPercent} %` : "",
    hedgeAfterMs > 0 ? `hedge after ${hedgeAfterMs} ms, at most ${hedgePercent || 5} %` : "",
    fallbackModels.length > 0 ? `else ${fallbackModels.join(", ")}` : "",
  ];
  return words.filter((word) => word !== "").join("; ") || "-";
}

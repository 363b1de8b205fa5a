import type { RoutingPolicy } from "#kernel/routing-policies.ts";
import type { Policy } from "../policy.ts";
import { consistentHash } from "./consistent-hash.ts";
import { leastLoaded } from "./least-loaded.ts";
import { powerOfTwo } from "./power-of-two.ts";
import { predictedTtft } from "./predicted-ttft.ts";
import { prefixAffinity } from "./prefix-affinity.ts";
import { randomPolicy } from "./random.ts";
import { roundRobin } from "./round-robin.ts";

export type PolicyName = RoutingPolicy;

export const policies: { readonly [N in PolicyName]: Policy } = {
  "predicted-ttft": predictedTtft,
  "prefix-affinity": prefixAffinity,
  "least-loaded": leastLoaded,
  "power-of-two": powerOfTwo,
  "round-robin": roundRobin,
  random: randomPolicy,
  "consistent-hash": consistentHash,
};

export function isPolicyName(name: string): name is PolicyName {
  return Object.hasOwn(policies, name);
}

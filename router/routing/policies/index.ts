import type { Policy } from "../policy.ts";
import { leastLoaded } from "./least-loaded.ts";
import { randomPolicy } from "./random.ts";
import { roundRobin } from "./round-robin.ts";

export type PolicyName = "least-loaded" | "round-robin" | "random";

export const policies: { readonly [N in PolicyName]: Policy } = {
  "least-loaded": leastLoaded,
  "round-robin": roundRobin,
  random: randomPolicy,
};

/** Names of the policies by which routers pick a replica, as in `type.v1.DeploymentRouting.policy`. The first is the default. */
export const routingPolicies = [
  "predicted-ttft",
  "prefix-affinity",
  "least-loaded",
  "power-of-two",
  "round-robin",
  "random",
  "consistent-hash",
] as const;

export type RoutingPolicy = (typeof routingPolicies)[number];

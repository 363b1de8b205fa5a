export { observeEngines } from "./engine-metrics.ts";
export { ReplicaSet } from "./replica-set.ts";

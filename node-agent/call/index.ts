export type { CallEnvironment, CallTarget, RunningSequence } from "./call-environment.ts";
export { CallMetrics } from "./call-metrics.ts";
export { createCallRunner } from "./runner.ts";

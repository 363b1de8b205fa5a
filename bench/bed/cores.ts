import { execFileSync } from "node:child_process";
import { cpus } from "node:os";

/** The proxy under test runs alone on the first core. */
export const proxyCore = "0";
/** Engines, clients and this process. */
export const otherCores = cpus().length > 2 ? `1-${cpus().length - 1}` : "1";

/** @throws Error when the machine has one core, or nothing to pin with */
export function pinThisProcess(): void {
  if (cpus().length < 2)
    throw new Error("This benchmark pins the proxy to one core and all else to others: two cores are needed.");
  execFileSync("taskset", ["-acp", otherCores, String(process.pid)], { stdio: "ignore" });
}

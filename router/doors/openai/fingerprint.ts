import { createHash } from "node:crypto";

/**
 * `system_fingerprint`: changes when another model answers, and where an answer with a seed cannot be had again. Which
 * node or engine answers is not told to callers.
 */
export function systemFingerprint(model: string, unrepeatable: boolean): string {
  const system = unrepeatable ? `${model}\0unrepeatable` : model;
  return `fp_${createHash("sha256").update(system).digest("hex").slice(0, 10)}`;
}

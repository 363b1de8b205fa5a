import { createHash } from "node:crypto";

/** Callers name models before anyone knows whether they exist, so what is kept of them is bounded. */
const mostKept = 64;
const kept = new Map<string, string>();

/**
 * `system_fingerprint`: changes when another model answers, and where an answer with a seed cannot be had again. Which
 * node or engine answers is not told to callers.
 */
export function systemFingerprint(model: string, unrepeatable: boolean): string {
  const system = unrepeatable ? `${model}\0unrepeatable` : model;
  const known = kept.get(system);
  if (known !== undefined) return known;
  const fingerprint = `fp_${createHash("sha256").update(system).digest("hex").slice(0, 10)}`;
  if (kept.size === mostKept) kept.clear();
  kept.set(system, fingerprint);
  return fingerprint;
}

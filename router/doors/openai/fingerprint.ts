import { hashText } from "../../routing/hash.ts";

/**
 * `system_fingerprint`: changes when another model answers, and where an answer with a seed cannot be had again. Which
 * node or engine answers is not told to callers.
 */
export function systemFingerprint(model: string, unrepeatable: boolean): string {
  const hash = hashText(unrepeatable ? `${model}\0unrepeatable` : model);
  return `fp_${hash.toString(16).padStart(8, "0")}`;
}

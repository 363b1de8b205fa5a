import { createHash } from "node:crypto";

/** `system_fingerprint`: changes when another model answers. Which node or engine does is not told to callers. */
export function systemFingerprint(model: string): string {
  return `fp_${createHash("sha256").update(model).digest("hex").slice(0, 10)}`;
}

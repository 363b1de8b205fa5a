import { isSaturated } from "../candidate.ts";
import type { Policy } from "../policy.ts";

/**
 * The replica that holds the longest prefix, until it is saturated: then the next longest, then the least loaded of
 * all. Ties go to the one with fewer calls. Never a saturated one while another is free.
 */
export const prefixAffinity: Policy = (view, { random }) => {
  let best: { readonly candidate: ReturnType<typeof view.at>; readonly blocks: number } | undefined;
  const matches = view.matches();
  for (const candidate of matches) {
    if (isSaturated(candidate)) continue;
    const blocks = view.matchedBlocks(candidate);
    if (best && (blocks < best.blocks || (blocks === best.blocks && candidate.calls >= best.candidate.calls))) continue;
    best = { candidate, blocks };
  }
  if (best) return { candidate: best.candidate, why: "prefix", considered: matches };
  const candidate = view.leastLoaded(random);
  return {
    candidate,
    why: isSaturated(candidate) ? "all-saturated" : "least-loaded",
    considered: [candidate, ...matches],
  };
};

import type { Plan } from "./plan.ts";

/**
 * Tokens that a prefix must save before a lane is taken for it alone: lanes with gaps between them are decoded in several
 * passes (2 lanes 22 %, 4 lanes 32 % slower than without a gap), which a few saved tokens do not make good.
 */
const smallPrefix = 16;

export interface ChoosableLane {
  readonly index: number;
  /** Admissions count up; 0 while the lane was never used. */
  readonly usedAt: number;
  readonly sequence: object | undefined;
  sharedPrefix(plan: Plan): number;
}

/**
 * The free lane for a call and how many tokens of its prompt it holds: the one that holds most, if that saves much; else
 * beside one that runs, so that no gap opens, the one used longest ago, so that prompts stay cached. Undefined when all
 * are taken.
 */
export function chooseLane<Lane extends ChoosableLane>(
  lanes: readonly Lane[],
  plan: Plan,
): { readonly lane: Lane; readonly shared: number } | undefined {
  const free = lanes.filter((lane) => !lane.sequence);
  const touching = free.filter(({ index }) => lanes[index - 1]?.sequence ?? lanes[index + 1]?.sequence);
  const candidates = touching.length > 0 ? touching : free;
  let oldest = candidates[0];
  if (!oldest) return undefined;
  for (const lane of candidates) if (lane.usedAt < oldest.usedAt) oldest = lane;
  let best = { lane: oldest, shared: oldest.sharedPrefix(plan) };
  for (const lane of free) {
    const shared = lane.sharedPrefix(plan);
    if (shared >= best.shared + (best.lane === oldest ? smallPrefix : 1)) best = { lane, shared };
  }
  return best;
}

import { invariant } from "#kernel/invariant.ts";
import { type Candidate, isSaturated } from "../candidate.ts";
import type { Policy } from "../policy.ts";
import { predict } from "../predict.ts";
import { twoRandom } from "./two-random.ts";

/**
 * The replica whose first token is predicted to come first, of those that hold the longest prefixes, two by chance and
 * one of the router's own zone, which the others have to beat by the zone penalty. If the best is saturated the least
 * loaded of all is weighed too; a free one may still lose to it, where evaluating the prompt anew takes longer than
 * waiting.
 */
export const predictedTtft: Policy = (view, { random, promptTokens, blockTokens, rates }) => {
  const considered: Candidate[] = [];
  let best: Candidate | undefined;
  let bestMs = Number.POSITIVE_INFINITY;
  const weigh = (candidate: Candidate): void => {
    if (considered.includes(candidate)) return;
    considered.push(candidate);
    const uncached = Math.max(0, promptTokens - view.matchedBlocks(candidate) * blockTokens);
    const ms = predict(candidate, uncached, rates).costMs;
    if (ms >= bestMs) return;
    best = candidate;
    bestMs = ms;
  };
  for (const candidate of view.matches()) weigh(candidate);
  for (const candidate of twoRandom(view, random)) weigh(candidate);
  const near = view.near(random);
  if (near) weigh(near);
  if (!best || isSaturated(best)) weigh(view.leastLoaded(random));
  invariant(best, "a prediction is a number");
  return { candidate: best, why: "predicted", considered };
};

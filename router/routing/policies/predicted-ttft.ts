import { invariant } from "#kernel/invariant.ts";
import { type Candidate, isSaturated } from "../candidate.ts";
import type { Policy } from "../policy.ts";
import { predict } from "../predict.ts";
import { twoRandom } from "./two-random.ts";

/**
 * The replica whose first token is predicted to come first, of those that hold the longest prefixes and two by chance.
 * If that one is saturated the least loaded of all is weighed too; a free one may still lose to it, where evaluating
 * the prompt anew takes longer than waiting.
 */
export const predictedTtft: Policy = (view, { random, promptTokens, blockTokens, rates }) => {
  const considered = [...new Set([...view.matches(), ...twoRandom(view, random)])];
  let best: Candidate | undefined;
  let bestMs = Number.POSITIVE_INFINITY;
  const weigh = (candidate: Candidate): void => {
    const uncached = Math.max(0, promptTokens - view.matchedBlocks(candidate) * blockTokens);
    const ms = predict(candidate, uncached, rates).costMs;
    if (ms >= bestMs) return;
    best = candidate;
    bestMs = ms;
  };
  for (const candidate of considered) weigh(candidate);
  if (!best || isSaturated(best)) {
    const idlest = view.leastLoaded(random);
    if (!considered.includes(idlest)) {
      considered.push(idlest);
      weigh(idlest);
    }
  }
  invariant(best, "a prediction is a number");
  return { candidate: best, why: "predicted", considered };
};

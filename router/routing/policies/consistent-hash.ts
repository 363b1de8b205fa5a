import { randomInt } from "#kernel/random.ts";
import { type Candidate, isSaturated } from "../candidate.ts";
import type { Policy } from "../policy.ts";

/** Nobody holds more than this times the mean number of calls. */
const bound = 1.25;
/** Owners looked at before giving up on the ring. */
const mostSteps = 16;

/**
 * Consistent hashing with bounded loads (https://arxiv.org/abs/1608.01350): the owner of the session's place on the
 * ring, else of the prompt's beginning, or the first after it that has room. Never a saturated one while another is
 * free. A call with neither session nor prompt gets a place by chance.
 */
export const consistentHash: Policy = (view, { random, affinityKey }) => {
  const key = affinityKey ?? randomInt(random, 2 ** 32);
  const limit = Math.ceil(bound * (view.meanCalls + 1 / view.size));
  const considered: Candidate[] = [];
  for (const candidate of view.owners(key, mostSteps)) {
    considered.push(candidate);
    if (candidate.calls >= limit || isSaturated(candidate)) continue;
    return { candidate, why: "ring", considered: considered };
  }
  const candidate = view.leastLoaded(random);
  return {
    candidate,
    why: isSaturated(candidate) ? "all-saturated" : "ring-full",
    considered: [candidate, ...considered],
  };
};

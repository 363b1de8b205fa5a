import { invariant } from "#kernel/invariant.ts";
import { randomInt } from "#kernel/random.ts";
import type { Candidate } from "../candidate.ts";
import type { Policy } from "../policy.ts";

/**
 * The replica with the fewest calls: running and queued as its agent last said, plus this router's own, which the
 * report may not hold yet (own calls may count twice; that only spreads them more). Ties are broken by chance, so that
 * routers that see the same loads do not all choose the same replica.
 */
export const leastLoaded: Policy = (candidates, { random }) => {
  let best: Candidate[] = [];
  let bestLoad = Number.POSITIVE_INFINITY;
  for (const candidate of candidates) {
    const load = candidate.running + candidate.queued + candidate.inFlight;
    if (load < bestLoad) {
      bestLoad = load;
      best = [candidate];
    } else if (load === bestLoad) best.push(candidate);
  }
  const chosen = best[randomInt(random, best.length)];
  invariant(chosen, "a policy is asked with at least one candidate");
  return chosen;
};

import { invariant } from "#kernel/invariant.ts";
import { randomInt } from "#kernel/random.ts";
import type { Policy } from "../policy.ts";

/** Any, whatever its load. */
export const randomPolicy: Policy = (candidates, { random }) => {
  const chosen = candidates[randomInt(random, candidates.length)];
  invariant(chosen, "a policy is asked with at least one candidate");
  return chosen;
};

import { invariant } from "#kernel/invariant.ts";
import type { Policy } from "../policy.ts";

/** Each in turn, whatever its load. */
export const roundRobin: Policy = (candidates, { turn }) => {
  const chosen = candidates[turn % candidates.length];
  invariant(chosen, "a policy is asked with at least one candidate");
  return chosen;
};

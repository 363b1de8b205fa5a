import { randomInt } from "#kernel/random.ts";
import type { Policy } from "../policy.ts";

/** Any, whatever its load. */
export const randomPolicy: Policy = (view, { random }) => {
  const candidate = view.at(randomInt(random, view.size));
  return { candidate, why: "chance", considered: [candidate] };
};

import type { Policy } from "../policy.ts";

/** Each in turn, whatever its load. */
export const roundRobin: Policy = (view, { turn }) => {
  const candidate = view.at(turn % view.size);
  return { candidate, why: "turn", considered: [candidate] };
};

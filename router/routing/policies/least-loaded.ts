import type { Policy } from "../policy.ts";

/** The replica whose batch is least full, over all of them; ties are broken by chance. Never a saturated one while another is free. */
export const leastLoaded: Policy = (view, { random }) => {
  const candidate = view.leastLoaded(random);
  return { candidate, why: "least-loaded", considered: [candidate] };
};

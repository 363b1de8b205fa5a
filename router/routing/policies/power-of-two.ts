import type { Policy } from "../policy.ts";
import { twoRandom } from "./two-random.ts";

/** The less loaded of two by chance: close to the least loaded of all, and routers with old news do not all agree on one. */
export const powerOfTwo: Policy = (view, { random }) => {
  const considered = twoRandom(view, random);
  const [first, second = first] = considered;
  return { candidate: second.calls < first.calls ? second : first, why: "two-choices", considered };
};

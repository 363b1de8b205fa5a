import { type Random, randomInt } from "#kernel/random.ts";
import type { Candidate } from "../candidate.ts";
import type { PolicyView } from "../policy.ts";

/** Two different replicas by chance, or the only one. */
export function twoRandom(view: PolicyView, random: Random): readonly [Candidate] | readonly [Candidate, Candidate] {
  const first = randomInt(random, view.size);
  if (view.size === 1) return [view.at(first)];
  const second = (first + 1 + randomInt(random, view.size - 1)) % view.size;
  return [view.at(first), view.at(second)];
}

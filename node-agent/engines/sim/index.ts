import { type Clock, systemClock } from "#kernel/clock.ts";
import { type Random, systemRandom } from "#kernel/random.ts";
import type { CreateEngine } from "../engine.ts";
import { SimEngine } from "./engine.ts";

/** A simulator on a clock and a source of chance of the caller's. */
export function simEngine(parts: { readonly clock: Clock; readonly random: Random }): CreateEngine {
  return (options) => new SimEngine(options, parts);
}

export const createSimEngine: CreateEngine = simEngine({ clock: systemClock, random: systemRandom });

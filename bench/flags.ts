import { parseArgs } from "node:util";

export interface BenchFlags {
  /** Fewer and shorter runs: whether it works, and rough figures. */
  readonly quick: boolean;
  /** Only cases whose name holds this; the result is shown and not kept. */
  readonly only: string;
}

/** @throws TypeError for a flag that there is not */
export function benchFlags(args: readonly string[]): BenchFlags {
  const { values } = parseArgs({
    args: [...args],
    options: { quick: { type: "boolean", default: false }, only: { type: "string", default: "" } },
  });
  return values;
}

/** Crashes on a state that cannot be: a defect of ours, never a caller's mistake. */
export function invariant(condition: unknown, message: string): asserts condition {
  if (!condition) throw new Error(`invariant violated: ${message}`);
}

/** Ends an exhaustive switch; a new union member fails to compile here. */
export function unreachable(value: never): never {
  throw new Error(`invariant violated: unexpected ${JSON.stringify(value)}`);
}

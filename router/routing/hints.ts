import type { Explanation } from "./explain.ts";

/** Header names, lower case. */
const sessionHeader = "x-helixmesh-session";
const canaryHeader = "x-helixmesh-canary";
export const explainHeader = "x-helixmesh-explain";

/** What a caller says, in headers, about where its call should go. */
export interface RoutingHints {
  /** Calls with the same value go to the same replica while it has room. */
  readonly session: string | undefined;
  /** Goes to the deployments with this canary value. */
  readonly canary: string | undefined;
  /** Called when the call is placed, before its first response, each time that it is; absent unless asked for. */
  readonly onPlaced?: (explanation: Explanation) => void;
}

/** Of a header that asks for something: "1" and "true" say the same. */
export function isOn(value: string | null | undefined): boolean {
  return value === "1" || value === "true";
}

/** Reads the headers. `onPlaced` is kept only if the caller asks to have its routing explained. */
export function routingHints(
  header: (name: string) => string | undefined,
  onPlaced: (explanation: Explanation) => void,
): RoutingHints {
  const hints = { session: header(sessionHeader) || undefined, canary: header(canaryHeader) || undefined };
  return isOn(header(explainHeader)) ? { ...hints, onPlaced } : hints;
}

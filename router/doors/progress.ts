import type { Waiting } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { isOn } from "../routing/hints.ts";

/** A caller sets it to "true" to hear what its call waits for, over every protocol that streams. */
const progressHeader = "x-helixmesh-progress";

export function wantsProgress(header: (name: string) => string | null | undefined): boolean {
  return isOn(header(progressHeader));
}

/** Such as "waiting, 2 busy, 1 loading (43 %), about 3 calls ahead"; one line. */
export function waitingText({ reason, callsAhead = 0 }: Waiting): string {
  const ahead = callsAhead === 0 ? "" : `, about ${callsAhead} ${callsAhead === 1 ? "call" : "calls"} ahead`;
  return `waiting, ${reason}${ahead}`;
}

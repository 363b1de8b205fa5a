import type { CallSettings } from "./call-parts.ts";
import type { NotRecorded } from "./recording.ts";

export interface LostOutput {
  /** The output, or why it is not at hand. */
  readonly recorded: readonly Uint8Array[] | NotRecorded;
  /** Times that the call has moved. */
  readonly moves: number;
  /** Dispatches since it had output last. */
  readonly tries: number;
  /** The replica that was lost had brought some of the output. */
  readonly brought: boolean;
  readonly settings: Pick<CallSettings, "maxMoves" | "maxAttempts">;
}

/** Why a call with output cannot go on elsewhere, for metrics and for its caller; undefined when it can. */
export function staysBecause(lost: LostOutput): { readonly kind: string; readonly text: string } | undefined {
  const { recorded, moves, tries, brought, settings } = lost;
  switch (recorded) {
    case "off":
      return { kind: "off", text: "" };
    case "call":
      return { kind: "bytes", text: " The answer is too long for its call to move (--max-migration-bytes)." };
    case "total":
      return {
        kind: "total-bytes",
        text: " The router keeps too many answers for this one to move (--max-migration-total-bytes).",
      };
  }
  if (brought && moves >= settings.maxMoves) {
    return { kind: "moves", text: ` The call has moved ${moves} times already (--max-moves).` };
  }
  if (!brought && tries >= settings.maxAttempts) {
    return { kind: "attempts", text: ` ${tries} replicas in a row could not go on with it (--max-attempts).` };
  }
  return undefined;
}

import type { Candidate } from "./candidate.ts";
import type { Choice, PolicyContext, PolicyView } from "./policy.ts";
import { predict } from "./predict.ts";

/** Candidates that an explanation names. */
const mostCandidates = 8;

export interface ExplainedCandidate {
  readonly node: string;
  readonly replica: string;
  readonly matchedBlocks: number;
  readonly calls: number;
  readonly running: number;
  readonly queued: number;
  /** Predicted, milliseconds; the sum of the parts times `correction`. */
  readonly ttftMs: number;
  readonly waitMs: number;
  readonly backlogMs: number;
  readonly prefillMs: number;
  readonly stepMs: number;
  /** What the calls beside it lose, milliseconds; not part of `ttftMs`. */
  readonly shareMs: number;
  /** For going to another zone (--zone-penalty), milliseconds; not part of `ttftMs`. */
  readonly awayMs: number;
  readonly correction: number;
}

/** Why a call went where it did; the JSON of the header x-helixmesh-explain. */
export interface Explanation {
  readonly policy: string;
  readonly why: string;
  readonly model: string;
  readonly deployment: string;
  readonly node: string;
  readonly replica: string;
  readonly promptBlocks: number;
  /** Estimated from the prompt's bytes. */
  readonly promptTokens: number;
  /** The chosen one first; at most 8. */
  readonly candidates: readonly ExplainedCandidate[];
}

export function explain(
  choice: Choice,
  view: PolicyView,
  context: PolicyContext,
  names: { readonly policy: string; readonly model: string; readonly promptBlocks: number },
): Explanation {
  const { candidate, why, considered } = choice;
  const others = considered.filter((other) => other !== candidate);
  return {
    policy: names.policy,
    why,
    model: names.model,
    deployment: candidate.deployment,
    node: candidate.nodeId,
    replica: candidate.replicaId,
    promptBlocks: names.promptBlocks,
    promptTokens: Math.round(context.promptTokens),
    candidates: [candidate, ...others].slice(0, mostCandidates).map((one) => explained(one, view, context)),
  };
}

/** As a header's value: JSON in visible ASCII (https://www.rfc-editor.org/rfc/rfc9110#section-5.5). */
export function explanationText(explanation: Explanation): string {
  return JSON.stringify(explanation).replace(
    /[^\x20-\x7e]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

/** As attributes of the call's span; one list per candidate, since attributes do not nest. */
export function explainAttributes(explanation: Explanation): Record<string, string | number | string[]> {
  return {
    "helixmesh.routing.policy": explanation.policy,
    "helixmesh.routing.why": explanation.why,
    "helixmesh.routing.node": explanation.node,
    "helixmesh.routing.replica": explanation.replica,
    "helixmesh.routing.deployment": explanation.deployment,
    "helixmesh.routing.prompt_blocks": explanation.promptBlocks,
    "helixmesh.routing.candidates": explanation.candidates.map((one) => JSON.stringify(one)),
  };
}

function explained(candidate: Candidate, view: PolicyView, context: PolicyContext): ExplainedCandidate {
  const matchedBlocks = view.matchedBlocks(candidate);
  const uncached = Math.max(0, context.promptTokens - matchedBlocks * context.blockTokens);
  const parts = predict(candidate, uncached, context.rates);
  return {
    node: candidate.nodeId,
    replica: candidate.replicaId,
    matchedBlocks,
    calls: candidate.calls,
    running: candidate.running,
    queued: candidate.queued,
    ttftMs: rounded(parts.ttftMs),
    waitMs: rounded(parts.waitMs),
    backlogMs: rounded(parts.backlogMs),
    prefillMs: rounded(parts.prefillMs),
    stepMs: rounded(parts.stepMs),
    shareMs: rounded(parts.shareMs),
    awayMs: candidate.awayMs,
    correction: rounded(parts.correction),
  };
}

function rounded(value: number): number {
  return Math.round(value * 100) / 100;
}

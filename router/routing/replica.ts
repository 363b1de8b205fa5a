import type { Replica as DiscoveredReplica } from "#gen/helixmesh/discovery/v1/discovery_pb.ts";
import type { Candidate } from "./candidate.ts";
import { type Fill, fillOf, isHeldUp } from "./fill.ts";
import { LearnedLimit } from "./learned-limit.ts";
import { capabilityBits } from "./need.ts";
import type { ReadySet } from "./ready-set.ts";
import type { ReplicaView } from "./replica-view.ts";
import { StagePace } from "./stage-pace.ts";

/** Share of one observed time to first token in the correction. */
const learning = 0.2;
/** After this long without an observation half of a correction is forgotten, so that a replica that was slow is tried again. */
const halfLifeMs = 30_000;
/** Sooner than this after the last time nothing is forgotten: powers for every call would cost more than they tell. */
const leastForgetMs = halfLifeMs / 1_000;
/** One observation may move the correction by this factor at most, and all of them no further from 1. */
const mostCorrection = 8;

/** A replica as the router follows it: its agent's last word, and what this router has sent there since. */
export class Replica implements Candidate {
  readonly replicaId: string;
  readonly nodeId: string;
  readonly deployment: string;
  /** Where it is found while it takes calls; see ready-set.ts, which alone writes these. */
  set: ReadySet | undefined;
  index = 0;
  level = 0;
  levelIndex = 0;
  able = 0;
  /** Of this router's zone. */
  near = false;
  awayMs = 0;
  parallelSequences = 0;
  running = 0;
  queued = 0;
  stepTimeUs = 0;
  prefillTokensPerS = 0;
  correction = 1;
  calls = 0;
  fill: Fill = "free";
  heldUp = false;
  #limit: LearnedLimit | undefined;
  /** While it is on its way to being ready. */
  #pace: StagePace | undefined;
  #load: ReplicaView["load"];
  #capabilities: ReplicaView["capabilities"];
  #correctedAtMs = 0;
  #ownCalls = 0;
  #othersCalls = 0;
  #reportedBacklog = 0;
  /** Of own calls that the engine has not admitted: they are in no report's backlog. */
  #ownTokens = 0;

  constructor(replica: DiscoveredReplica) {
    this.replicaId = replica.replicaId;
    this.nodeId = replica.nodeId;
    this.deployment = replica.deployment;
  }

  /** Calls at once, learnt from refusals; infinite as a rule. */
  get mostCalls(): number {
    return this.#limit?.calls ?? Number.POSITIVE_INFINITY;
  }

  get backlogTokens(): number {
    return this.#reportedBacklog + this.#ownTokens;
  }

  /** Takes over what the link knows. False when that is what it knew before. */
  report({ capabilities, load }: ReplicaView, nowMs: number): boolean {
    this.forget(nowMs);
    if (load === this.#load && capabilities === this.#capabilities) return false;
    this.#load = load;
    this.#capabilities = capabilities;
    if (capabilities) {
      this.able = capabilityBits(capabilities);
      this.parallelSequences = capabilities.parallelSequences;
    }
    this.running = load?.running ?? 0;
    this.queued = load?.queued ?? 0;
    this.heldUp = load !== undefined && isHeldUp(load);
    this.stepTimeUs = load?.stepTimeUs ?? 0;
    this.prefillTokensPerS = load?.prefillTokensPerS ?? 0;
    this.#reportedBacklog = Number(load?.prefillBacklogTokens ?? 0n);
    // Own calls that are still on their way there make the others look fewer, for one report.
    this.#othersCalls = Math.max(0, this.running + this.queued - this.#ownCalls);
    this.#weigh();
    return true;
  }

  /**
   * For one that is not ready: milliseconds until the stage is over that it is in, where its agent says how far it is and
   * it has moved since it was first seen there. Others may follow.
   */
  stageLeftMs(view: ReplicaView | undefined, nowMs: number): number | undefined {
    if (view?.progress === undefined) {
      this.#pace = undefined;
      return undefined;
    }
    if (this.#pace?.state !== view.state) this.#pace = new StagePace(view.state, view.progress, nowMs);
    return this.#pace.leftMs(view.progress, nowMs);
  }

  /** A call goes there, with `tokens` to evaluate. */
  sent(tokens: number): void {
    this.#ownCalls += 1;
    this.#ownTokens += tokens;
    this.#weigh();
  }

  /** The engine took a call that was sent with `tokens`. */
  admitted(tokens: number): void {
    this.#ownTokens -= tokens;
  }

  /** The call has left it. */
  ended(): void {
    this.#ownCalls -= 1;
    this.#weigh();
  }

  /** It had no room for a call, which has left it. */
  refused(): void {
    this.#limit ??= new LearnedLimit();
    this.#limit.refused(this.calls);
    this.#weigh();
  }

  /** A call ended well. */
  served(): void {
    if (!this.#limit) return;
    this.#limit.ended();
    if (this.#limit.calls === Number.POSITIVE_INFINITY) this.#limit = undefined;
    this.#weigh();
  }

  /** Learns from one call: its observed time over the one predicted without this correction. */
  observe(ratio: number, nowMs: number): void {
    this.forget(nowMs);
    this.correction = clamp(this.correction * (clamp(ratio) / this.correction) ** learning);
    this.#correctedAtMs = nowMs;
  }

  /** Lets the correction fade with time. */
  forget(nowMs: number): void {
    if (this.correction === 1 || nowMs - this.#correctedAtMs < leastForgetMs) return;
    this.correction **= 0.5 ** ((nowMs - this.#correctedAtMs) / halfLifeMs);
    this.#correctedAtMs = nowMs;
    if (Math.abs(this.correction - 1) < 0.01) this.correction = 1;
  }

  #weigh(): void {
    this.calls = this.#othersCalls + this.#ownCalls;
    this.fill = fillOf(this);
    this.set?.update(this);
  }
}

function clamp(factor: number): number {
  return Math.min(mostCorrection, Math.max(1 / mostCorrection, factor));
}

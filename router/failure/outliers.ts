import { Decayed } from "./decayed.ts";

/** Peers that make a comparison; fewer say nothing. */
const leastPeers = 3;
/** Calls, weighted by age, that make a replica comparable. */
const leastCalls = 10;
const halfLifeMs = 10_000;
/** Times the median time to first token, and milliseconds above it, that are too slow. */
const slowFactor = 4;
const slowMarginMs = 200;
/** Share of failed calls above the median share that is too much. */
const failingMargin = 0.3;
/** How long an ejection lasts: this for the first, twice this for the second in a row, and so on. */
const ejectMs = 30_000;
const longestEjectMs = 300_000;
/** A comparison looks at every peer, so it is made this often at most. */
const compareEveryMs = 1_000;

export type EjectedFor = "failures" | "slowness";

interface Peer {
  readonly calls: Decayed;
  readonly failures: Decayed;
  readonly answers: Decayed;
  readonly ttftMs: Decayed;
  ejectedUntilMs: number;
  ejections: number;
}

/**
 * Finds the replicas of one deployment that do far worse than their peers, though not badly enough for their breakers:
 * those are left alone for a while, at most `maxPercent` of all at once, so that a bad day of everybody ejects few.
 * Pure: callers bring the time.
 */
export class Outliers {
  readonly #maxPercent: number;
  readonly #peers = new Map<string, Peer>();
  #comparedMs = Number.NEGATIVE_INFINITY;

  constructor(maxPercent: number) {
    this.#maxPercent = maxPercent;
  }

  get size(): number {
    return this.#peers.size;
  }

  isEjected(replicaId: string, nowMs: number): boolean {
    return (this.#peers.get(replicaId)?.ejectedUntilMs ?? 0) > nowMs;
  }

  answered(replicaId: string, ttftMs: number, nowMs: number): void {
    const peer = this.#peer(replicaId);
    peer.calls.add(1, nowMs);
    peer.answers.add(1, nowMs);
    peer.ttftMs.add(ttftMs, nowMs);
  }

  failed(replicaId: string, nowMs: number): void {
    const peer = this.#peer(replicaId);
    peer.calls.add(1, nowMs);
    peer.failures.add(1, nowMs);
  }

  forget(replicaId: string): void {
    this.#peers.delete(replicaId);
  }

  /** Compares all, if it is time, and says whom it ejected. */
  compare(nowMs: number): { readonly replicaId: string; readonly why: EjectedFor }[] {
    if (nowMs < this.#comparedMs + compareEveryMs || this.#peers.size < leastPeers) return [];
    this.#comparedMs = nowMs;
    const here = [...this.#peers].filter(([, peer]) => peer.ejectedUntilMs <= nowMs);
    let room = Math.floor((this.#peers.size * this.#maxPercent) / 100) - (this.#peers.size - here.length);
    const comparable = here.filter(([, peer]) => peer.calls.at(nowMs) >= leastCalls);
    if (comparable.length < leastPeers) return [];
    const failing = new Map(comparable.map(([, peer]) => [peer, peer.failures.at(nowMs) / peer.calls.at(nowMs)]));
    const ttft = new Map(
      comparable
        .filter(([, peer]) => peer.answers.at(nowMs) >= leastCalls)
        .map(([, peer]) => [peer, peer.ttftMs.at(nowMs) / peer.answers.at(nowMs)]),
    );
    const tooFailing = median([...failing.values()]) + failingMargin;
    const usualMs = ttft.size < leastPeers ? Number.POSITIVE_INFINITY : median([...ttft.values()]);
    const tooSlowMs = Math.max(usualMs * slowFactor, usualMs + slowMarginMs);
    const ejected: { replicaId: string; why: EjectedFor }[] = [];
    for (const [replicaId, peer] of comparable) {
      const fails = (failing.get(peer) ?? 0) > tooFailing;
      if (!fails && (ttft.get(peer) ?? 0) <= tooSlowMs) {
        peer.ejections = 0;
        continue;
      }
      if (room < 1) continue;
      room -= 1;
      const ejections = peer.ejections + 1;
      // It comes back with nothing against it but how often it was sent away.
      const ejectedUntilMs = nowMs + Math.min(longestEjectMs, ejectMs * ejections);
      this.#peers.set(replicaId, { ...newPeer(), ejections, ejectedUntilMs });
      ejected.push({ replicaId, why: fails ? "failures" : "slowness" });
    }
    return ejected;
  }

  #peer(replicaId: string): Peer {
    let peer = this.#peers.get(replicaId);
    if (!peer) this.#peers.set(replicaId, (peer = newPeer()));
    return peer;
  }
}

function newPeer(): Peer {
  const decayed = (): Decayed => new Decayed(halfLifeMs);
  return {
    calls: decayed(),
    failures: decayed(),
    answers: decayed(),
    ttftMs: decayed(),
    ejectedUntilMs: 0,
    ejections: 0,
  };
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.floor((sorted.length - 1) / 2)] ?? 0;
}

import type { HeldCall } from "#gen/helixmesh/link/v1/link_pb.ts";
import type { Clock } from "#kernel/clock.ts";
import type { Metrics } from "#kernel/metrics.ts";

/** A call that its client may resume, and the node that goes on with it. */
export interface Resumable {
  readonly nodeId: string;
  readonly replicaId: string;
  readonly model: string;
  readonly deployment: string;
  /** Unix milliseconds. */
  readonly startedAtMs: number;
  /** Of two nodes that have a call, the one with the later attempt has all that its client has. */
  readonly attempt: number;
}

/** Who asks for which call. */
export interface CallName {
  readonly keyId: string;
  readonly callId: string;
}

export interface ResumableCallsOptions {
  /** Most that are known at once, about 300 bytes each. */
  readonly maxCalls: number;
  /** Nodes that may be asked in a second, all calls together. */
  readonly asksPerSecond: number;
  readonly clock: Clock;
  readonly metrics: Metrics;
}

/** Which calls the agents hold, and who waits for the node of one (link.v1 HeldCall). */
export class ResumableCalls {
  readonly #options: ResumableCallsOptions;
  readonly #known;
  readonly #unknown;
  readonly #unasked;
  readonly #byNode = new Map<string, Map<string, Resumable>>();
  readonly #waiting = new Map<string, Set<(attached: Resumable | undefined) => void>>();
  #size = 0;
  #asks: number;
  #asksSinceMs: number;

  constructor(options: ResumableCallsOptions) {
    const { asksPerSecond, clock, metrics } = options;
    this.#options = options;
    this.#asks = asksPerSecond;
    this.#asksSinceMs = clock.monotonicMs();
    this.#known = metrics.gauge("router_resumable_calls", "Calls of dead routers that agents hold for their clients.");
    this.#unknown = metrics.counter(
      "router_resumable_calls_ignored_total",
      "Such calls that cannot be resumed here, since as many as may be known were.",
    );
    this.#unasked = metrics.counter(
      "router_resume_asks_refused_total",
      "Calls to be resumed whose node was not asked for, since as many nodes were as may be in a second.",
    );
    this.#known.set(0);
  }

  /** An agent's word. */
  told(nodeId: string, news: HeldCall): void {
    const key = keyOf(news);
    const { replicaId, model, deployment, startedAtMs, attempt } = news;
    const call = { nodeId, replicaId, model, deployment, startedAtMs: Number(startedAtMs), attempt };
    // Nothing would say when that is so no longer: only for those who asked.
    if (news.attached) return this.#tell(key, call);
    const calls = this.#byNode.get(nodeId) ?? new Map<string, Resumable>();
    if (calls.delete(key)) this.#size -= 1;
    if (!news.released) {
      if (this.#size >= this.#options.maxCalls) return this.#unknown.inc();
      calls.set(key, call);
      this.#size += 1;
    }
    if (calls.size > 0) this.#byNode.set(nodeId, calls);
    else this.#byNode.delete(nodeId);
    this.#known.set(this.#size);
    if (!news.released) this.#tell(key, undefined);
  }

  /** The node's link is down: what it holds is said again when it is up. */
  forget(nodeId: string): void {
    this.#size -= this.#byNode.get(nodeId)?.size ?? 0;
    this.#byNode.delete(nodeId);
    this.#known.set(this.#size);
  }

  /** The held call. */
  find(call: CallName): Resumable | undefined {
    const key = keyOf(call);
    let latest: Resumable | undefined;
    for (const calls of this.#byNode.values()) {
      const found = calls.get(key);
      if (found && (!latest || found.attempt > latest.attempt)) latest = found;
    }
    return latest;
  }

  /**
   * Calls `listener` whenever a node says that it holds the call, or, with what it says, that it has the call on some
   * link; until the returned function is called.
   */
  onFound(call: CallName, listener: (attached: Resumable | undefined) => void): () => void {
    const key = keyOf(call);
    const listeners = this.#waiting.get(key) ?? new Set();
    this.#waiting.set(key, listeners.add(listener));
    return () => {
      listeners.delete(listener);
      if (listeners.size === 0) this.#waiting.delete(key);
    };
  }

  /** Whether so many nodes may be asked for one more call, which is spent if so. */
  mayAsk(nodes: number): boolean {
    const { asksPerSecond, clock } = this.#options;
    const nowMs = clock.monotonicMs();
    this.#asks = Math.min(asksPerSecond, this.#asks + ((nowMs - this.#asksSinceMs) * asksPerSecond) / 1_000);
    this.#asksSinceMs = nowMs;
    // A mesh of more nodes than that is asked all the same, once a second.
    const asks = Math.min(nodes, asksPerSecond);
    const may = asksPerSecond > 0 && this.#asks >= asks;
    if (may) this.#asks -= asks;
    else this.#unasked.inc();
    return may;
  }

  #tell(key: string, attached: Resumable | undefined): void {
    const listeners = [...(this.#waiting.get(key) ?? [])];
    for (const listener of listeners) listener(attached);
  }
}

/** Key ids have no line breaks. */
function keyOf({ keyId, callId }: CallName): string {
  return `${keyId}\n${callId}`;
}

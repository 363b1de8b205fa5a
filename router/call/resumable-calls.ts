import type { HeldCall } from "#gen/helixmesh/link/v1/link_pb.ts";
import type { Metrics } from "#kernel/metrics.ts";

/** A call whose router is gone, and the node that goes on with it. */
export interface Resumable {
  readonly nodeId: string;
  readonly replicaId: string;
  readonly model: string;
  readonly deployment: string;
  /** Unix milliseconds. */
  readonly startedAtMs: number;
  /** Of two nodes that hold a call, the one with the later attempt has all that its client has. */
  readonly attempt: number;
}

export interface ResumableCallsOptions {
  /** Most that are known at once, about 300 bytes each. */
  readonly maxCalls: number;
  readonly metrics: Metrics;
}

/** Which calls the agents hold (link.v1 HeldCall), as they say it on the links. */
export class ResumableCalls {
  readonly #maxCalls: number;
  readonly #known;
  readonly #unknown;
  readonly #byNode = new Map<string, Map<string, Resumable>>();
  readonly #waiting = new Map<string, Set<() => void>>();
  #size = 0;

  constructor({ maxCalls, metrics }: ResumableCallsOptions) {
    this.#maxCalls = maxCalls;
    this.#known = metrics.gauge("router_resumable_calls", "Calls of dead routers that agents hold for their clients.");
    this.#unknown = metrics.counter(
      "router_resumable_calls_ignored_total",
      "Such calls that cannot be resumed here, since as many as may be known were.",
    );
    this.#known.set(0);
  }

  /** An agent's word. */
  told(nodeId: string, news: HeldCall): void {
    const key = keyOf(news.keyId, news.callId);
    const calls = this.#byNode.get(nodeId) ?? new Map<string, Resumable>();
    if (calls.delete(key)) this.#size -= 1;
    if (!news.released) {
      if (this.#size >= this.#maxCalls) return this.#unknown.inc();
      const { replicaId, model, deployment, startedAtMs, attempt } = news;
      calls.set(key, { nodeId, replicaId, model, deployment, startedAtMs: Number(startedAtMs), attempt });
      this.#size += 1;
    }
    if (calls.size > 0) this.#byNode.set(nodeId, calls);
    else this.#byNode.delete(nodeId);
    this.#known.set(this.#size);
    if (!news.released) for (const listener of this.#waiting.get(key) ?? []) listener();
  }

  /** The node's link is down: what it holds is said again when it is up. */
  forget(nodeId: string): void {
    this.#size -= this.#byNode.get(nodeId)?.size ?? 0;
    this.#byNode.delete(nodeId);
    this.#known.set(this.#size);
  }

  find(keyId: string, callId: string): Resumable | undefined {
    const key = keyOf(keyId, callId);
    let latest: Resumable | undefined;
    for (const calls of this.#byNode.values()) {
      const found = calls.get(key);
      if (found && (!latest || found.attempt > latest.attempt)) latest = found;
    }
    return latest;
  }

  /** Calls `listener` whenever a node says that it holds the call, until the returned function is called. */
  onHeld(keyId: string, callId: string, listener: () => void): () => void {
    const key = keyOf(keyId, callId);
    const listeners = this.#waiting.get(key) ?? new Set();
    this.#waiting.set(key, listeners.add(listener));
    return () => {
      listeners.delete(listener);
      if (listeners.size === 0) this.#waiting.delete(key);
    };
  }
}

/** Key ids have no line breaks. */
function keyOf(keyId: string, callId: string): string {
  return `${keyId}\n${callId}`;
}

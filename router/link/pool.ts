import type { HeldCall, PrefixDigest } from "#gen/helixmesh/link/v1/link_pb.ts";
import { Backoff } from "#kernel/backoff.ts";
import type { Clock } from "#kernel/clock.ts";
import type { Logger } from "#kernel/log.ts";
import type { Metrics } from "#kernel/metrics.ts";
import type { Random } from "#kernel/random.ts";
import type { IndexedSnapshot } from "../discovery/snapshot.ts";
import type { ReplicaView } from "../routing/replica-view.ts";
import type { LinkFind, LinkResume, LinkStart } from "./call-queue.ts";
import { Link } from "./link.ts";
import type { LinkCall, LinkCallEvents } from "./link-call.ts";
import { type LinkMetrics, linkMetrics } from "./link-metrics.ts";
import type { NodeSubset } from "./node-subset.ts";
import type { LinkTransport } from "./transport.ts";

export interface PoolOptions {
  readonly routerId: string;
  /** This process: see link.v1 RouterHello. */
  readonly instanceId: string;
  readonly transport: LinkTransport;
  readonly subset: NodeSubset;
  readonly connectTimeoutMs: number;
  /** No shorter silence of an agent with running calls is its loss. */
  readonly patienceMs: number;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  readonly metrics: Metrics;
  /** News of what a replica's cache holds, in order. "gap": something before it is missing, and a snapshot will come. */
  readonly onPrefixes: (nodeId: string, digest: PrefixDigest, blockBytes: number) => "ok" | "gap";
  /** A replica's load came. */
  readonly onLoad: (nodeId: string, replicaId: string) => void;
  /** The node holds a call whose router is gone, or holds it no longer, or has one that this router asked for. */
  readonly onHeld: (nodeId: string, news: HeldCall) => void;
  /** Nothing is known any more of what the node's caches hold, nor of the calls that it holds: its link is down. */
  readonly onForget: (nodeId: string) => void;
}

/** One link for each node of the snapshot, or of the router's share of them. */
export class LinkPool {
  readonly #options: PoolOptions;
  readonly #metrics: LinkMetrics;
  readonly #links = new Map<string, Link>();
  /** Links of nodes that left or moved, until their last call ended. */
  readonly #retiring = new Set<Link>();
  readonly #listeners = new Set<(nodeId: string | undefined) => void>();
  #closed = false;

  constructor(options: PoolOptions) {
    this.#options = options;
    this.#metrics = linkMetrics(options.metrics);
  }

  /** Opens links to new nodes and retires those of nodes that are gone or have another address or token. */
  follow(snapshot: IndexedSnapshot): void {
    if (this.#closed) return;
    const nodes = this.#options.subset.choose(snapshot);
    for (const [nodeId, link] of this.#links) {
      const node = nodes.get(nodeId);
      if (node && node.linkAddress === link.target.address && node.linkToken === link.target.token) continue;
      this.#links.delete(nodeId);
      this.#retiring.add(link);
      link.retire();
    }
    for (const node of nodes.values()) {
      if (this.#links.has(node.nodeId)) continue;
      const target = { address: node.linkAddress, token: node.linkToken };
      const link = this.#takeBack(node.nodeId, target.address, target.token) ?? this.#newLink(node.nodeId, target);
      this.#links.set(node.nodeId, link);
      link.open();
    }
    for (const link of this.#retiring) if (link.kind === "closed") this.#retiring.delete(link);
    // Replicas may have come or gone without any link changing.
    this.#changed(undefined);
  }

  /** Undefined when the replica's link is down or takes no new calls. */
  replica(nodeId: string, replicaId: string): ReplicaView | undefined {
    return this.#links.get(nodeId)?.replica(replicaId);
  }

  start(nodeId: string, start: LinkStart, events: LinkCallEvents): LinkCall | undefined {
    return this.#links.get(nodeId)?.start(start, events);
  }

  /** Undefined when the node's link is down. */
  resume(nodeId: string, resume: LinkResume, events: LinkCallEvents): LinkCall | undefined {
    return this.#links.get(nodeId)?.resume(resume, events);
  }

  /** Links of the pool, up or not. */
  get size(): number {
    return this.#links.size;
  }

  /** Asks all nodes whether they have the call; `onHeld` hears of those that do. */
  find(call: LinkFind): void {
    for (const link of this.#links.values()) link.find(call);
  }

  /**
   * Calls `listener` whenever a replica may have become ready or stopped to be, with its node or, when it may be of any,
   * without; in the order of subscription, until the returned function is called.
   */
  onChange(listener: (nodeId: string | undefined) => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  close(): void {
    this.#closed = true;
    for (const link of [...this.#links.values(), ...this.#retiring]) link.close();
    this.#links.clear();
    this.#retiring.clear();
  }

  /** A node that left for a moment finds its link again, with the calls that still run on it. */
  #takeBack(nodeId: string, address: string, token: string): Link | undefined {
    for (const link of this.#retiring) {
      if (link.nodeId !== nodeId || link.target.address !== address || link.target.token !== token) continue;
      this.#retiring.delete(link);
      return link.unretire() ? link : undefined;
    }
    return undefined;
  }

  #newLink(nodeId: string, target: { address: string; token: string }): Link {
    const { routerId, instanceId, transport, connectTimeoutMs, patienceMs, clock, random, logger } = this.#options;
    const { onPrefixes, onForget, onLoad, onHeld } = this.#options;
    return new Link({
      nodeId,
      target,
      routerId,
      instanceId,
      transport,
      connectTimeoutMs,
      patienceMs,
      backoff: new Backoff({ initialMs: 100, maxMs: 5_000 }, random),
      clock,
      logger,
      metrics: this.#metrics,
      onChange: () => this.#changed(nodeId),
      onPrefixes: (digest, blockBytes) => onPrefixes(nodeId, digest, blockBytes),
      onHeld: (news) => onHeld(nodeId, news),
      onForget: () => onForget(nodeId),
      onLoad: (replicaId) => onLoad(nodeId, replicaId),
    });
  }

  #changed(nodeId: string | undefined): void {
    // A copy: a call that goes on waiting listens again, and must not be told twice of one change.
    const listeners = [...this.#listeners];
    for (const listener of listeners) listener(nodeId);
  }
}

import type { Node } from "#gen/helixmesh/discovery/v1/discovery_pb.ts";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import type { IndexedSnapshot } from "../discovery/snapshot.ts";

export interface NodeSubsetOptions {
  readonly routerId: string;
  /** The ids of all routers, this one among them, the same list in each; empty: this router knows of no others. */
  readonly routers: readonly string[];
  /** Links that this router should have; 0 means one to each node. */
  readonly maxLinks: number;
}

/** Nodes of one deployment that a router keeps a link to, as far as there are so many: one may fail. */
const leastNodesOfDeployment = 2;

/**
 * Which nodes this router links to. Every node belongs to as many of the routers as `maxLinks` allows, those whose hash
 * with it is highest (rendezvous hashing): at least one, so none is left out while all routers run, even where that takes
 * more links than wished; and a node or a router more or less moves only its own links. A router that knows of no
 * others links to all, for it cannot know that anybody else would. On top of that come nodes for deployments of which
 * it would have fewer than two.
 */
export class NodeSubset {
  readonly #options: NodeSubsetOptions;
  /** How many routers come before this one, by node. */
  readonly #ranks = new Map<string, number>();

  /** @throws MeshError when the list lacks this router: each would count on another to link to its share */
  constructor(options: NodeSubsetOptions) {
    const { routerId, routers } = options;
    if (routers.length > 0 && !routers.includes(routerId)) {
      const message = `--routers is ${routers.join(",")} and lacks this router, ${routerId}: list the --router-id of every router.`;
      throw new MeshError(Reason.INVALID_REQUEST, message, { field: "routers" });
    }
    this.#options = options;
  }

  choose(snapshot: IndexedSnapshot): ReadonlyMap<string, Node> {
    const { maxLinks, routers } = this.#options;
    const { nodes } = snapshot;
    if (maxLinks === 0 || nodes.size <= maxLinks || routers.length < 2) return nodes;
    const holders = Math.max(1, Math.floor((maxLinks * routers.length) / nodes.size));
    for (const nodeId of this.#ranks.keys()) if (!nodes.has(nodeId)) this.#ranks.delete(nodeId);
    const chosen = new Map<string, Node>();
    for (const [nodeId, node] of nodes) if (this.#rank(nodeId) < holders) chosen.set(nodeId, node);
    for (const replicas of snapshot.replicasOfDeployment.values()) {
      const all = new Set(replicas.map(({ nodeId }) => nodeId).filter((nodeId) => nodes.has(nodeId)));
      const missing = [...all]
        .filter((nodeId) => !chosen.has(nodeId))
        .toSorted((a, b) => this.#rank(a) - this.#rank(b));
      const wanted = Math.max(0, Math.min(leastNodesOfDeployment, all.size) - (all.size - missing.length));
      for (const nodeId of missing.slice(0, wanted)) {
        const node = nodes.get(nodeId);
        if (node) chosen.set(nodeId, node);
      }
    }
    return chosen;
  }

  #rank(nodeId: string): number {
    let rank = this.#ranks.get(nodeId);
    if (rank === undefined) {
      const { routerId, routers } = this.#options;
      const own = score(routerId, nodeId);
      rank = 0;
      for (const router of routers)
        if (router !== routerId && isBefore(router, score(router, nodeId), routerId, own)) rank += 1;
      this.#ranks.set(nodeId, rank);
    }
    return rank;
  }
}

/** Names decide between equal scores, the same way in every router. */
function isBefore(router: string, score: number, other: string, otherScore: number): boolean {
  return score === otherScore ? router < other : score > otherScore;
}

/** 32-bit FNV-1a, then the finalizer of MurmurHash3, because names that differ in one digit must not rank alike. */
function score(router: string, nodeId: string): number {
  let hash = 0x811c9dc5;
  for (const text of [router, "\0", nodeId]) {
    for (let at = 0; at < text.length; at++) hash = Math.imul(hash ^ text.charCodeAt(at), 0x01000193);
  }
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}

import type { Node } from "#gen/helixmesh/discovery/v1/discovery_pb.ts";
import type { IndexedSnapshot } from "../discovery/snapshot.ts";
import { hashText } from "../routing/hash.ts";
import type { RouterPeer, RouterPeers } from "./router-peers.ts";

export interface NodeSubsetOptions extends RouterPeers {
  /** Links that this router should have; 0 means one to each node. */
  readonly maxLinks: number;
}

/** Nodes of one deployment that a router keeps a link to, as far as there are so many: one may fail. */
const leastNodesOfDeployment = 2;

/** In which order a node would be linked by the routers: those of its zone first, each part by rendezvous hashing. */
interface Preference {
  readonly zone: string;
  /** Indexes of routers. */
  readonly order: readonly number[];
  /** How many of them are of the node's zone. */
  readonly near: number;
}

/**
 * Which nodes this router links to: a function of the nodes, the listed routers and the limit, so that all routers share
 * the nodes without a word. In rounds, each node gets one more router: the first of its preference that has room, of its
 * own zone as long as there is one. They go on until every router has all the links that it may have.
 *
 * - No node is left out while all listed routers run, whatever its zone: where `maxLinks` is too few for that, each
 *   router takes its part of what is too much.
 * - A zone's nodes are linked by its own routers first, a router's room is for its own zone's nodes first.
 * - A node or router more or less moves its own links and a few besides: preferences do not change, only who has room.
 *
 * On top come nodes for deployments of which this router would have fewer than two. A router that knows of no others
 * links to all, for it cannot know that anybody else would.
 */
export class NodeSubset {
  readonly #options: NodeSubsetOptions;
  readonly #own: number;
  readonly #preferences = new Map<string, Preference>();
  #nodes: ReadonlyMap<string, Node> | undefined;
  #share: readonly Node[] = [];

  constructor(options: NodeSubsetOptions) {
    this.#options = options;
    this.#own = options.all.findIndex(({ id }) => id === options.own.id);
  }

  choose(snapshot: IndexedSnapshot): ReadonlyMap<string, Node> {
    const { maxLinks, all } = this.#options;
    const { nodes } = snapshot;
    if (maxLinks === 0 || nodes.size <= maxLinks || all.length < 2) return nodes;
    if (nodes !== this.#nodes) {
      this.#nodes = nodes;
      for (const nodeId of this.#preferences.keys()) if (!nodes.has(nodeId)) this.#preferences.delete(nodeId);
      this.#share = this.#takeShare(nodes);
    }
    const chosen = new Map(this.#share.map((node) => [node.nodeId, node]));
    for (const replicas of snapshot.replicasOfDeployment.values()) {
      const holders = new Set(replicas.flatMap(({ nodeId }) => nodes.get(nodeId) ?? []));
      const missing = [...holders].filter(({ nodeId }) => !chosen.has(nodeId));
      const wanted = Math.min(leastNodesOfDeployment, holders.size) - (holders.size - missing.length);
      if (wanted <= 0) continue;
      for (const node of missing.toSorted((a, b) => this.#distance(a) - this.#distance(b)).slice(0, wanted)) {
        chosen.set(node.nodeId, node);
      }
    }
    return chosen;
  }

  #takeShare(nodes: ReadonlyMap<string, Node>): readonly Node[] {
    const { maxLinks, all } = this.#options;
    const room = all.map(() => Math.max(maxLinks, Math.ceil(nodes.size / all.length)));
    const share: Node[] = [];
    let waiting = [...nodes.values()]
      .toSorted((a, b) => (a.nodeId < b.nodeId ? -1 : 1))
      .map((node) => ({ node, preference: this.#preferenceOf(node), next: 0 }));
    /** False when none of the routers before `end` in the node's order has room. Whoever has none never has again. */
    const give = (place: (typeof waiting)[number], end: number): boolean => {
      for (; place.next < end; place.next++) {
        const router = place.preference.order[place.next] ?? 0;
        const left = room[router] ?? 0;
        if (left === 0) continue;
        room[router] = left - 1;
        if (router === this.#own) share.push(place.node);
        place.next += 1;
        return true;
      }
      return false;
    };
    while (waiting.length > 0) {
      const far = waiting.filter((place) => !give(place, place.preference.near));
      const full = new Set(far.filter((place) => !give(place, all.length)));
      waiting = waiting.filter((place) => !full.has(place));
    }
    return share;
  }

  /** Of those that are not linked anyway, which to link first. */
  #distance(node: Node): number {
    const { own, all } = this.#options;
    const isNear = own.zone !== "" && own.zone === node.zone;
    return this.#preferenceOf(node).order.indexOf(this.#own) + (isNear ? 0 : all.length);
  }

  #preferenceOf(node: Node): Preference {
    let preference = this.#preferences.get(node.nodeId);
    if (!preference || preference.zone !== node.zone) {
      preference = preferenceOf(node, this.#options.all);
      this.#preferences.set(node.nodeId, preference);
    }
    return preference;
  }
}

function preferenceOf({ nodeId, zone }: Node, routers: readonly RouterPeer[]): Preference {
  const ranked = routers.map((router, index) => ({
    id: router.id,
    index,
    far: zone !== "" && router.zone === zone ? 0 : 1,
    score: hashText(`${router.id}\0${nodeId}`),
  }));
  // Names decide between equal scores, the same way in every router.
  ranked.sort((a, b) => a.far - b.far || b.score - a.score || (a.id < b.id ? -1 : 1));
  return { zone, order: ranked.map(({ index }) => index), near: ranked.filter(({ far }) => far === 0).length };
}

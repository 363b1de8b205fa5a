import { create } from "@bufbuild/protobuf";
import { SnapshotSchema } from "#gen/helixmesh/discovery/v1/discovery_pb.ts";
import { PrefixDigestSchema } from "#gen/helixmesh/link/v1/link_pb.ts";
import { EngineCapabilitiesSchema, ReplicaLoadSchema, ReplicaState } from "#gen/helixmesh/type/v1/type_pb.ts";
import { ManualClock } from "#kernel/clock.ts";
import { Metrics } from "#kernel/metrics.ts";
import { type Random, randomInt, seededRandom } from "#kernel/random.ts";
import { indexSnapshot } from "../router/discovery/snapshot.ts";
import type { PolicyName } from "../router/routing/policies/index.ts";
import { Fleet } from "../router/routing/fleet.ts";
import { PrefixIndex } from "../router/routing/prefix-index.ts";
import type { ReplicaView } from "../router/routing/replica-view.ts";
import { Routes } from "../router/routing/routes.ts";
import { routingMetrics } from "../router/routing/routing-metrics.ts";
import type { SentCall } from "../router/routing/sent-call.ts";
import { EventQueue } from "./routing-events.ts";
import { type NodeCall, SimNode, nodeModel } from "./routing-node.ts";
import { type Conversation, Transcript, blockTokens } from "./routing-trace.ts";

/** Routers of the mesh; each sees the others' calls in the agents' reports alone. */
const routerCount = 2;
/** From what happens on a node to the routers' knowing: one decode step and a network. */
const reportDelayMs = 20;
const attempts = 3;
const bytesPerToken = 4;
/** What the oracle gives for the neighbours' time, as predicted-ttft does; with 0 its goodput at the limit is 35 to 47 %. */
const neighbourWeight = 0.1;
/** Nodes that the oracle weighs besides those that served the conversation before. */
const oracleLooks = 64;

/** `oracle` predicts from the nodes' true state; `most cached` goes where most of the prompt truly is, whatever the load. */
export type Contestant = PolicyName | "oracle" | "most cached";

export interface MeshResult {
  readonly calls: number;
  readonly refused: number;
  /** Share of prompt tokens that were in the cache of the node that took the call. */
  readonly hitRate: number;
  /** Share that some earlier call had as its prompt: what one cache without bounds would hit. */
  readonly idealHitRate: number;
  /** Milliseconds, sorted. */
  readonly ttfts: readonly number[];
}

export interface MeshOptions {
  readonly nodes: number;
  readonly trace: readonly Conversation[];
  readonly contestant: Contestant;
  /** Calls at the beginning that warm the caches and do not count. */
  readonly warmup: number;
  readonly seed: number;
}

interface Talk {
  readonly conversation: Conversation;
  readonly transcript: Transcript;
  /** Nodes that have served it. */
  readonly nodes: Set<SimNode>;
  turn: number;
}

interface Flight extends NodeCall {
  readonly talk: Talk;
  readonly arrivedMs: number;
  readonly counts: boolean;
  sent: SentCall | undefined;
}

type Event =
  | { readonly kind: "turn"; readonly talk: Talk }
  | { readonly kind: "node"; readonly node: SimNode; readonly version: number }
  | { readonly kind: "report"; readonly node: SimNode };

/** A mesh in which everything but the engines is the router's own code: Routes, its policies and its prefix index. */
export class SimMesh {
  readonly #options: MeshOptions;
  readonly #clock = new ManualClock(0);
  readonly #random: Random;
  readonly #events = new EventQueue<Event>();
  readonly #nodes: SimNode[] = [];
  readonly #versions: number[] = [];
  readonly #views: ReplicaView[] = [];
  readonly #reports: (() => void)[][] = [];
  readonly #routers: { readonly routes: Routes; readonly prefixes: PrefixIndex }[] = [];
  readonly #seen = new Set<number>();
  readonly #ttfts: number[] = [];
  #calls = 0;
  #refused = 0;
  #promptTokens = 0;
  #cachedTokens = 0;
  #idealTokens = 0;

  constructor(options: MeshOptions) {
    this.#options = options;
    this.#random = seededRandom(options.seed);
    for (let index = 0; index < options.nodes; index++) this.#addNode(index);
    const replicas = this.#nodes.map(({ index }) => ({ replicaId: `r${index}`, nodeId: `n${index}`, deployment: "d" }));
    const nodes = replicas.map(({ nodeId }) => ({ nodeId }));
    const models = [{ name: "m" }];
    const deployments = [{ name: "d", model: "m" }];
    const snapshot = indexSnapshot(create(SnapshotSchema, { models, deployments, nodes, replicas }));
    for (let router = 0; router < routerCount; router++) {
      const random = seededRandom(options.seed + 1 + router);
      const metrics = routingMetrics(new Metrics("bench"));
      const prefixes = new PrefixIndex({ maxEntries: 20_000_000, random, metrics });
      const { contestant } = options;
      const fleet = new Fleet({
        lookup: (_nodeId, replicaId) => this.#views[Number(replicaId.slice(1))],
        prefixes,
        zone: "",
        zonePenaltyMs: 0,
        clock: this.#clock,
      });
      const routes = new Routes({
        fleet,
        prefixes,
        policy: contestant === "oracle" || contestant === "most cached" ? "random" : contestant,
        blockBytes: blockTokens * bytesPerToken,
        clock: this.#clock,
        random,
        metrics,
      });
      fleet.follow(snapshot);
      this.#routers.push({ routes, prefixes });
    }
  }

  run(): MeshResult {
    for (const conversation of this.#options.trace) {
      const talk = { conversation, transcript: new Transcript(conversation), nodes: new Set<SimNode>(), turn: 0 };
      talk.transcript.tokens = conversation.instructionTokens;
      this.#events.push(conversation.startMs, { kind: "turn", talk });
    }
    for (let next = this.#events.pop(); next; next = this.#events.pop()) {
      this.#clock.advance(Math.max(0, next.atMs - this.#clock.monotonicMs()));
      const { event } = next;
      if (event.kind === "turn") this.#call(event.talk);
      else if (event.kind === "report") this.#report(event.node);
      else if (event.version === this.#versions[event.node.index]) this.#advance(event.node);
    }
    return {
      calls: this.#calls,
      refused: this.#refused,
      hitRate: this.#cachedTokens / this.#promptTokens,
      idealHitRate: this.#idealTokens / this.#promptTokens,
      ttfts: this.#ttfts.sort((a, b) => a - b),
    };
  }

  #addNode(index: number): void {
    const node = new SimNode(index, {
      admitted: (call) => this.#later(node, () => (call as Flight).sent?.admitted(call.promptTokens)),
      firstToken: (call, atMs) => this.#firstToken(node, call as Flight, atMs),
      ended: (call) => this.#ended(node, call as Flight),
    });
    this.#nodes.push(node);
    this.#versions.push(0);
    this.#reports.push([]);
    const capabilities = create(EngineCapabilitiesSchema, {
      generate: true,
      parallelSequences: nodeModel.parallelSequences,
    });
    this.#views.push({ state: ReplicaState.READY, capabilities, load: undefined, inFlight: 0 });
  }

  #call(talk: Talk): void {
    const { conversation, transcript } = talk;
    const turn = conversation.turns[talk.turn];
    if (!turn) return;
    const blocks = transcript.extend(turn.userTokens);
    const flight: Flight = {
      blocks,
      promptTokens: transcript.tokens,
      outputTokens: turn.outputTokens,
      cachedTokens: 0,
      prefillLeft: 0,
      endStep: 0,
      firstTokenMs: 0,
      talk,
      arrivedMs: this.#clock.monotonicMs(),
      counts: this.#calls >= this.#options.warmup,
      sent: undefined,
    };
    this.#calls += 1;
    let known = 0;
    while (known < blocks.length && this.#seen.has(blocks[known] ?? 0)) known += 1;
    for (const hash of blocks.subarray(known)) this.#seen.add(hash);
    if (flight.counts) this.#idealTokens += Math.min(known * blockTokens, flight.promptTokens - 1);
    if (!this.#place(flight)) {
      if (flight.counts) this.#refused += 1;
      return;
    }
    if (flight.counts) this.#promptTokens += flight.promptTokens;
  }

  /** As a router does: pick, dispatch, and elsewhere when the node says that it is full. */
  #place(flight: Flight): boolean {
    const exclude = new Set<string>();
    for (let attempt = 0; attempt < attempts; attempt++) {
      const place = this.#choose(flight, exclude);
      if (!place) return false;
      flight.sent = place.dispatched?.();
      const { node } = place;
      if (node.offer(flight, this.#clock.monotonicMs())) {
        flight.talk.nodes.add(node);
        this.#reschedule(node);
        return true;
      }
      flight.sent?.ended();
      exclude.add(`r${node.index}`);
    }
    return false;
  }

  #choose(
    flight: Flight,
    exclude: ReadonlySet<string>,
  ): { readonly node: SimNode; readonly dispatched?: () => SentCall } | undefined {
    const { contestant } = this.#options;
    if (contestant === "oracle" || contestant === "most cached") {
      const node = this.#trueBest(flight, exclude, contestant);
      return node && { node };
    }
    // A conversation's turns come to any router: there is a load balancer before them.
    const { routes } = this.#routers[randomInt(this.#random, routerCount)] ?? {};
    const result = routes?.pick({
      model: "m",
      needs: [],
      promptBytes: flight.promptTokens * bytesPerToken,
      promptBlocks: flight.blocks,
      exclude,
    });
    if (result?.kind !== "picked") return undefined;
    const node = this.#nodes[Number(result.picked.replicaId.slice(1))];
    return node && { node, dispatched: result.picked.dispatched };
  }

  #trueBest(flight: Flight, exclude: ReadonlySet<string>, contestant: Contestant): SimNode | undefined {
    const nowMs = this.#clock.monotonicMs();
    const all = this.#nodes.length <= oracleLooks;
    const first = randomInt(this.#random, this.#nodes.length);
    const others = this.#nodes.slice(first, first + oracleLooks);
    let best: SimNode | undefined;
    let bestCost = Number.POSITIVE_INFINITY;
    for (const node of all ? this.#nodes : new Set([...flight.talk.nodes, ...others])) {
      if (exclude.has(`r${node.index}`)) continue;
      node.advance(nowMs);
      this.#reschedule(node);
      const cost =
        contestant === "oracle" ? trueCostMs(node, flight) : -node.matched(flight.blocks) + node.running / 1_000;
      if (cost >= bestCost) continue;
      best = node;
      bestCost = cost;
    }
    return best;
  }

  #firstToken(node: SimNode, flight: Flight, atMs: number): void {
    if (flight.counts) {
      this.#ttfts.push(atMs - flight.arrivedMs);
      this.#cachedTokens += flight.cachedTokens;
    }
    this.#later(node, () => flight.sent?.firstToken());
  }

  #ended(node: SimNode, flight: Flight): void {
    const { talk } = flight;
    const told = talk.transcript.extend(flight.outputTokens);
    for (const hash of told.subarray(flight.blocks.length)) this.#seen.add(hash);
    node.keepAnswer(told);
    talk.turn += 1;
    const next = talk.conversation.turns[talk.turn];
    if (next) this.#events.push(this.#clock.monotonicMs() + next.thinkMs, { kind: "turn", talk });
    this.#later(node, () => flight.sent?.ended());
  }

  #advance(node: SimNode): void {
    node.advance(this.#clock.monotonicMs());
    this.#reschedule(node);
  }

  #reschedule(node: SimNode): void {
    const version = (this.#versions[node.index] ?? 0) + 1;
    this.#versions[node.index] = version;
    const atMs = node.nextMs();
    if (Number.isFinite(atMs)) this.#events.push(atMs, { kind: "node", node, version });
  }

  /** Tells the routers with the node's next report. */
  #later(node: SimNode, tell: () => void): void {
    const waiting = this.#reports[node.index];
    if (waiting?.push(tell) === 1)
      this.#events.push(this.#clock.monotonicMs() + reportDelayMs, { kind: "report", node });
  }

  #report(node: SimNode): void {
    const view = this.#views[node.index];
    const tell = this.#reports[node.index] ?? [];
    this.#reports[node.index] = [];
    if (!view) return;
    const load = create(ReplicaLoadSchema, {
      replicaId: `r${node.index}`,
      running: node.running,
      queued: node.queue.length,
      stepTimeUs: Math.round(node.stepMs * 1_000),
      prefillTokensPerS: nodeModel.prefillTokensPerS,
      prefillBacklogTokens: BigInt(Math.ceil(node.backlogTokens)),
    });
    this.#views[node.index] = { ...view, load };
    for (const one of tell) one();
    const { added, removed } = node.digest();
    if (added.length + removed.length === 0) return;
    const sequence = BigInt((this.#digests[node.index] = (this.#digests[node.index] ?? 0) + 1));
    const digest = create(PrefixDigestSchema, { replicaId: `r${node.index}`, sequence, added, removed });
    for (const { prefixes } of this.#routers) prefixes.apply(`n${node.index}`, digest);
  }

  readonly #digests: number[] = [];
}

/** What the first token truly takes: the exact queue, batch and cache, and how long the others go on. */
function trueCostMs(node: SimNode, flight: Flight): number {
  const { prefillChunkTokens, prefillTokensPerS, parallelSequences, stepPerSequenceMs, queueLimit } = nodeModel;
  if (node.queue.length >= queueLimit) return Number.POSITIVE_INFINITY;
  const uncached = flight.promptTokens - Math.min(node.matched(flight.blocks) * blockTokens, flight.promptTokens - 1);
  const queuedTokens = node.queue.reduce((sum, call) => sum + call.promptTokens, 0) / 4;
  const prefillMs = ((node.backlogTokens + queuedTokens + uncached) / prefillChunkTokens) * (node.stepMs || 1);
  const ahead = node.running + node.queue.length - parallelSequences + 1;
  const waitMs = ahead > 0 ? node.nthEndMs(ahead) : 0;
  const neighboursMs = (uncached / prefillTokensPerS) * 1_000 * Math.min(parallelSequences, node.running);
  return waitMs + prefillMs + node.running * stepPerSequenceMs + neighbourWeight * neighboursMs;
}

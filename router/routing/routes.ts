import type { Deployment } from "#gen/helixmesh/discovery/v1/discovery_pb.ts";
import type { DeploymentRouting } from "#gen/helixmesh/type/v1/type_pb.ts";
import type { Clock } from "#kernel/clock.ts";
import type { Random } from "#kernel/random.ts";
import { isSaturated } from "./candidate.ts";
import { type Explanation, explain } from "./explain.ts";
import type { Fleet } from "./fleet.ts";
import { hashText, mix32 } from "./hash.ts";
import { type Need, needBits } from "./need.ts";
import { isPolicyName, policies, type PolicyName } from "./policies/index.ts";
import type { Choice, PolicyContext } from "./policy.ts";
import { PoolView } from "./pool-view.ts";
import type { PrefixIndex } from "./prefix-index.ts";
import type { Replica } from "./replica.ts";
import type { RoutingMetrics } from "./routing-metrics.ts";
import { SentCall } from "./sent-call.ts";
import { chooseDeployment, chooseShadows, fallbackModels } from "./split.ts";

/** Blocks whose hash stands for "the beginning of the prompt" where a call has no session: 1 KiB with default blocks. */
const affinityBlocks = 4;
/**
 * Replicas whose load a pick refreshes in turn, besides those it weighs. What this router sends is known at once; what
 * others send to a replica is so looked at several times for each call that goes there.
 */
const sweep = 4;
const noBlocks = new Uint32Array();

export interface RoutesOptions {
  readonly fleet: Fleet;
  readonly prefixes: PrefixIndex;
  /** For deployments that name none. */
  readonly policy: PolicyName;
  /** Bytes of prompt that one block covers. */
  readonly blockBytes: number;
  readonly clock: Clock;
  readonly random: Random;
  readonly metrics: RoutingMetrics;
}

/** A call that wants a replica. */
export interface Ask {
  /** A model's name, resolved. */
  readonly model: string;
  readonly needs: readonly Need[];
  /** Size of the prompt; the encoded request will do. */
  readonly promptBytes: number;
  /** See kernel/prompt-blocks.ts; absent where nothing is cached by prefix. */
  readonly promptBlocks?: Uint32Array | undefined;
  /** Value of the header x-helixmesh-session. */
  readonly session?: string | undefined;
  /** Value of the header x-helixmesh-canary. */
  readonly canary?: string | undefined;
  /** Replicas that must not take it. */
  readonly exclude?: ReadonlySet<string> | undefined;
  /** Only this one; for shadow copies. */
  readonly deployment?: string | undefined;
  /** Say why. */
  readonly explain?: boolean | undefined;
}

export interface Picked {
  readonly replicaId: string;
  readonly nodeId: string;
  readonly deployment: string;
  /** What was asked for, or a fallback. */
  readonly model: string;
  /** The call would wait there for another one to end. */
  readonly saturated: boolean;
  /** How the deployment wants its calls served. */
  readonly routing: DeploymentRouting | undefined;
  readonly explanation: Explanation | undefined;
  /** To be called when the call has gone to the replica; what is returned hears how it fares. */
  readonly dispatched: () => SentCall;
}

export type PickResult =
  | { readonly kind: "picked"; readonly picked: Picked }
  /** Replicas could take it, but all of them are excluded. */
  | { readonly kind: "excluded" }
  /** No replica takes calls now. */
  | { readonly kind: "none-ready" }
  /** Every ready replica lacks `need`: waiting would not help. */
  | { readonly kind: "unsupported"; readonly need: Need };

/**
 * Where calls go. A pick looks at a handful of replicas whatever their number: those with the longest prefix, a few by
 * chance, the least loaded, the session's own.
 */
export class Routes {
  readonly #options: RoutesOptions;

  constructor(options: RoutesOptions) {
    this.#options = options;
  }

  /** Chooses a replica for the call among the model's deployments, else among those of its fallback models. */
  pick(ask: Ask): PickResult {
    const result = this.#pickModel(ask);
    if (result.kind === "picked" || result.kind === "unsupported" || ask.deployment !== undefined) return result;
    for (const model of fallbackModels(this.#options.fleet.deployments(ask.model))) {
      const fallback = this.#pickModel({ ...ask, model });
      if (fallback.kind !== "picked") continue;
      this.#options.metrics.fellBack();
      return fallback;
    }
    return result;
  }

  /** The deployments that get a copy of a call to the model, by chance. */
  shadows(model: string): readonly string[] {
    return chooseShadows(this.#options.fleet.deployments(model), () => this.#options.random.next()).map(
      ({ name }) => name,
    );
  }

  #pickModel(ask: Ask): PickResult {
    const { fleet } = this.#options;
    const bits = needBits(ask.needs);
    const deployments = fleet.deployments(ask.model);
    const hidden = ask.exclude && ask.exclude.size > 0 ? fleet.ready(ask.exclude) : nobody;
    for (const replica of hidden) fleet.pool(replica.deployment).hide(replica);
    let picked: Picked | undefined;
    try {
      const deployment = this.#choose(ask, bits, deployments);
      picked = deployment && this.#pickReplica(ask, bits, deployment);
    } finally {
      for (const replica of hidden) fleet.pool(replica.deployment).show(replica);
    }
    if (picked) return { kind: "picked", picked };
    if (hidden.length > 0 && this.#choose(ask, bits, deployments)) return { kind: "excluded" };
    for (const { name } of deployments) {
      const need = fleet.pool(name).lacks(ask.needs);
      if (need) return { kind: "unsupported", need };
    }
    return { kind: "none-ready" };
  }

  #choose(ask: Ask, bits: number, deployments: readonly Deployment[]): Deployment | undefined {
    const { fleet, random } = this.#options;
    const canTake = ({ name }: Deployment): boolean => fleet.pool(name).canTake(bits);
    if (ask.deployment !== undefined) return deployments.find((one) => one.name === ask.deployment && canTake(one));
    const roll = ask.session === undefined ? random.next() : hashText(ask.session) / 2 ** 32;
    return chooseDeployment(deployments, { canary: ask.canary, roll }, canTake);
  }

  #pickReplica(ask: Ask, bits: number, deployment: Deployment): Picked {
    const { fleet, prefixes, random, clock, metrics, blockBytes } = this.#options;
    const pool = fleet.pool(deployment.name);
    const nowMs = clock.monotonicMs();
    pool.sweep(sweep, (replica) => fleet.refresh(replica, nowMs));
    const promptBlocks = ask.promptBlocks ?? noBlocks;
    const view = new PoolView({ sets: pool.able(bits), pool, fleet, index: prefixes, promptBlocks, nowMs });
    const promptTokens = ask.promptBytes * pool.rates.tokensPerByte;
    const context: PolicyContext = {
      random,
      turn: pool.turn++,
      affinityKey: affinityKey(ask.session, promptBlocks),
      promptTokens,
      blockTokens: blockBytes * pool.rates.tokensPerByte,
      rates: pool.rates,
    };
    const named = deployment.routing?.policy ?? "";
    const policy = isPolicyName(named) ? named : this.#options.policy;
    const choice = sessionChoice(ask.session, view, context) ?? policies[policy](view, context);
    const { candidate } = choice;
    const matchedBlocks = view.matchedBlocks(candidate);
    metrics.picked(policy, choice.why);
    if (promptBlocks.length > 0) metrics.prompt(promptBlocks.length, matchedBlocks);
    const { replicaId, nodeId } = candidate;
    return {
      replicaId,
      nodeId,
      deployment: deployment.name,
      model: ask.model,
      saturated: isSaturated(candidate),
      routing: deployment.routing,
      explanation: ask.explain
        ? explain(choice, view, context, { policy, model: ask.model, promptBlocks: promptBlocks.length })
        : undefined,
      dispatched: () => {
        if (promptBlocks.length > 0 && prefixes.picked(nodeId, replicaId, promptBlocks)) metrics.prefixGuessed();
        const replica = fleet.replica(replicaId);
        const { rates } = pool;
        const uncachedTokens = Math.max(0, promptTokens - matchedBlocks * context.blockTokens);
        return new SentCall({ replica, rates, uncachedTokens, promptBytes: ask.promptBytes, clock, metrics });
      },
    };
  }
}

const nobody: readonly Replica[] = [];

/** A session stays where its hash puts it while that replica has room; without, the policy decides. */
function sessionChoice(
  session: string | undefined,
  view: PoolView,
  { affinityKey }: PolicyContext,
): Choice | undefined {
  if (session === undefined || affinityKey === undefined) return undefined;
  for (const candidate of view.owners(affinityKey, 1)) {
    if (!isSaturated(candidate)) return { candidate, why: "session", considered: [candidate] };
  }
  return undefined;
}

function affinityKey(session: string | undefined, promptBlocks: Uint32Array): number | undefined {
  if (session !== undefined) return hashText(session);
  const hash = promptBlocks[Math.min(affinityBlocks, promptBlocks.length) - 1];
  return hash === undefined ? undefined : mix32(hash);
}

import { create } from "@bufbuild/protobuf";
import { ConnectError, createClient, type Transport } from "@connectrpc/connect";
import type { Deployment, Replica } from "#gen/helixmesh/control/v1/control_pb.ts";
import { ChatInputSchema, InferenceService, Role } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { ReplicaState } from "#gen/helixmesh/type/v1/type_pb.ts";
import { type Clock, sleep } from "#kernel/clock.ts";
import { StartError } from "./start-error.ts";

export interface ReadinessParts {
  /** The state of the deployment now. */
  readonly look: () => Promise<Deployment | undefined>;
  /** One real call; resolves with the text. */
  readonly ask: () => Promise<string>;
  readonly clock: Clock;
  readonly timeoutMs: number;
  readonly step: (text: string) => void;
  readonly signal: AbortSignal;
}

const lookEveryMs = 250;
/** Shorter than the router's own patience, so that a replica that went away again is noticed. */
const answerTimeoutMs = 10_000;

/**
 * Waits until all replicas are ready and the model really answered a call. Throws a StartError that says what it waited
 * for when that takes too long.
 */
export async function waitForAnswer(parts: ReadinessParts): Promise<void> {
  const { clock, signal } = parts;
  const untilMs = clock.monotonicMs() + parts.timeoutMs;
  let waitingFor = "the control plane to place the model";
  while (!signal.aborted) {
    const deployment = await parts.look();
    if (deployment && readyReplicas(deployment) >= deployment.replicas) {
      parts.step(`Asking ${deployment.model} a question`);
      const problem = await tryToAsk(parts.ask);
      if (problem === undefined) return;
      waitingFor = `an answer: ${problem}`;
    } else {
      waitingFor = describeDeployment(deployment);
      parts.step(waitingFor);
    }
    if (clock.monotonicMs() >= untilMs) {
      throw new StartError(
        `The model did not answer within ${Math.round(parts.timeoutMs / 1_000)} s. Last seen: ${waitingFor}. ` +
          "The logs in the state folder say more; --ready-timeout 10m waits longer.",
      );
    }
    await sleep(clock, lookEveryMs, signal);
  }
}

/**
 * Waits until `count` replicas are ready, or as many as there are when `patienceMs` is over: what is drained when a
 * deployment shrinks should be what does not serve.
 */
export async function settleReplicas(
  count: number,
  patienceMs: number,
  parts: Pick<ReadinessParts, "look" | "clock" | "signal">,
): Promise<void> {
  const untilMs = parts.clock.monotonicMs() + patienceMs;
  while (!parts.signal.aborted && parts.clock.monotonicMs() < untilMs) {
    const deployment = await parts.look();
    if (!deployment || deployment.replicas <= count || readyReplicas(deployment) >= count) return;
    await sleep(parts.clock, lookEveryMs, parts.signal);
  }
}

/** A short greedy generation on the router. */
export function question(transport: Transport, model: string): () => Promise<string> {
  const client = createClient(InferenceService, transport);
  return async () => {
    let text = "";
    const chat = create(ChatInputSchema, { messages: [{ role: Role.USER, content: "What is the capital of Japan?" }] });
    const request = {
      model,
      input: { case: "chat" as const, value: chat },
      sampling: { temperature: 0 },
      maxOutputTokens: 16,
      labels: { source: "helixmesh-up" },
    };
    const answer = client.generate(request, { timeoutMs: answerTimeoutMs });
    for await (const { event } of answer) if (event.case === "delta") text += event.value.text;
    return text;
  };
}

async function tryToAsk(ask: () => Promise<string>): Promise<string | undefined> {
  try {
    return (await ask()).trim() === "" ? "the model answered with an empty text" : undefined;
  } catch (error) {
    // The router may not have heard of the replica or the key yet; anything else shows again until time is up.
    if (error instanceof ConnectError) return error.rawMessage;
    throw error;
  }
}

function readyReplicas(deployment: Deployment): number {
  return deployment.current.filter((replica) => replica.status?.state === ReplicaState.READY).length;
}

/** "Loading pocket: 1 of 2 replicas ready; local-2 is loading, 40 %". */
export function describeDeployment(deployment: Deployment | undefined): string {
  if (!deployment) return "Waiting for the control plane to place the model";
  const ready = `${readyReplicas(deployment)} of ${deployment.replicas} replicas ready`;
  const others = deployment.current
    .filter((replica) => replica.status?.state !== ReplicaState.READY)
    .map(describeReplica);
  const missing = deployment.unplacedReason === "" ? [] : [deployment.unplacedReason];
  return [`Loading ${deployment.model}: ${ready}`, ...others, ...missing].join("; ");
}

function describeReplica({ nodeName, status }: Replica): string {
  switch (status?.state) {
    case ReplicaState.FETCHING:
      return `${nodeName} is fetching, ${Math.round(status.progress * 100)} %`;
    case ReplicaState.LOADING:
      return `${nodeName} is loading, ${Math.round(status.progress * 100)} %`;
    case ReplicaState.WARMING:
      return `${nodeName} is warming up`;
    case ReplicaState.DRAINING:
      return `${nodeName} is draining`;
    case ReplicaState.FAILED:
      return `${nodeName} failed: ${status.message}`;
    default:
      return `${nodeName} has not begun`;
  }
}

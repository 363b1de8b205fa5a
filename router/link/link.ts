import { create } from "@bufbuild/protobuf";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import {
  type AgentHello,
  type CallEnd,
  CallEndSchema,
  ConnectRequestSchema,
  type ConnectResponse,
  type Method,
  type ReplicaInfo,
  type StartCall,
  StartCallSchema,
  type StepBatch,
} from "#gen/helixmesh/link/v1/link_pb.ts";
import { type ReplicaLoad, ReplicaState } from "#gen/helixmesh/type/v1/type_pb.ts";
import type { Backoff } from "#kernel/backoff.ts";
import type { Clock, Timer } from "#kernel/clock.ts";
import { unreachable } from "#kernel/invariant.ts";
import type { Logger } from "#kernel/log.ts";
import type { ReplicaView } from "../routing/candidates.ts";
import type { LinkMetrics } from "./link-metrics.ts";
import type { LinkStream, LinkTarget, LinkTransport } from "./transport.ts";

/** The version of link.v1 that this router speaks. */
const protocolVersion = 1;
/** An agent that is silent for this many of its own heartbeat intervals is lost (link.proto). */
const missedHeartbeats = 3;

export interface LinkOptions {
  readonly nodeId: string;
  readonly target: LinkTarget;
  readonly routerId: string;
  readonly transport: LinkTransport;
  /** From opening the connection to the agent's hello. */
  readonly connectTimeoutMs: number;
  readonly backoff: Backoff;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly metrics: LinkMetrics;
  /** The link or one of its replicas may take calls now, or no longer. */
  readonly onChange: () => void;
}

/** What a call hears of its place on the link. */
export interface LinkCallEvents {
  /** One encoded response, in order. The bytes are lent for the call: copy what must last. */
  onResponse(bytes: Uint8Array, start: number, end: number): void;
  /** After the responses of one step: how many tokens were generated for them, at least one. */
  onTokens(count: number): void;
  /** Last, once. A lost link ends its calls with NODE_LOST. */
  onEnd(end: CallEnd): void;
}

/** A call as it goes to the agent; the link numbers it. */
export interface LinkStart {
  readonly callId: string;
  readonly replicaId: string;
  readonly method: Method;
  readonly request: Uint8Array;
  readonly timeoutMs: number;
  readonly traceparent: string;
  readonly model: string;
  readonly deployment: string;
  /** Responses that the client has already, for a call that goes on where another replica stopped. */
  readonly relayed: readonly Uint8Array[];
}

export interface LinkCall {
  /** Stops the call; its end still comes. Harmless after it. */
  cancel(): void;
}

interface Replica {
  info: ReplicaInfo;
  load: ReplicaLoad | undefined;
  inFlight: number;
}

interface ActiveCall {
  readonly replica: Replica;
  readonly events: LinkCallEvents;
}

type LinkState =
  | { readonly kind: "greeting"; readonly stream: LinkStream; readonly timer: Timer }
  /** `retiring`: no new calls, because the agent drains or the node left the snapshot. */
  | { readonly kind: "up"; readonly stream: LinkStream; readonly heartbeat: Timer; readonly retiring: boolean }
  | { readonly kind: "waiting"; readonly timer: Timer }
  | { readonly kind: "closed" };

/** The one connection to one agent, kept up until `close`. */
export class Link {
  readonly #options: LinkOptions;
  readonly #replicas = new Map<string, Replica>();
  readonly #calls = new Map<number, ActiveCall>();
  #state: LinkState = { kind: "closed" };
  #retired = false;
  #nextNumber = 1;
  #lastHeardMs = 0;
  #starts: StartCall[] = [];
  #cancels: number[] = [];
  #flushing = false;
  /** The first failure in a row is worth a line, the following ones are not. */
  #failures = 0;

  constructor(options: LinkOptions) {
    this.#options = options;
  }

  get nodeId(): string {
    return this.#options.nodeId;
  }

  get target(): LinkTarget {
    return this.#options.target;
  }

  get kind(): LinkState["kind"] {
    return this.#state.kind;
  }

  get activeCalls(): number {
    return this.#calls.size;
  }

  open(): void {
    if (this.#state.kind === "closed") this.#connect();
  }

  /** Undefined when the link takes no new calls or does not know the replica. */
  replica(replicaId: string): ReplicaView | undefined {
    if (this.#state.kind !== "up" || this.#state.retiring || this.#retired) return undefined;
    const replica = this.#replicas.get(replicaId);
    if (!replica) return undefined;
    const { info, load, inFlight } = replica;
    return { state: info.state, capabilities: info.capabilities, load, inFlight };
  }

  /** Undefined when the replica takes no calls at this moment. The start leaves with others of this event-loop turn. */
  start(start: LinkStart, events: LinkCallEvents): LinkCall | undefined {
    const replica = this.replica(start.replicaId)?.state === ReplicaState.READY && this.#replicas.get(start.replicaId);
    if (!replica) return undefined;
    const number = this.#nextNumber++;
    replica.inFlight += 1;
    this.#calls.set(number, { replica, events });
    const timeoutMs = BigInt(Math.ceil(start.timeoutMs));
    this.#starts.push(create(StartCallSchema, { ...start, number, timeoutMs, relayed: [...start.relayed] }));
    this.#flushSoon();
    return {
      cancel: () => {
        if (!this.#calls.has(number)) return;
        this.#cancels.push(number);
        this.#flushSoon();
      },
    };
  }

  /** Takes no new calls, and closes when the last one ended. */
  retire(): void {
    this.#retired = true;
    this.#options.onChange();
    this.#closeIfDone();
  }

  /** The node is back in the snapshot before its last call ended. False when it is too late. */
  unretire(): boolean {
    if (this.#state.kind === "closed") return false;
    this.#retired = false;
    this.#options.onChange();
    return true;
  }

  /** Ends the link and, as lost, every call on it. */
  close(): void {
    const state = this.#state;
    this.#state = { kind: "closed" };
    switch (state.kind) {
      case "greeting":
        state.timer.cancel();
        state.stream.close();
        break;
      case "up":
        state.heartbeat.cancel();
        state.stream.close();
        this.#options.metrics.down("closed");
        break;
      case "waiting":
        state.timer.cancel();
        break;
      case "closed":
        return;
      default:
        unreachable(state);
    }
    this.#endCalls("The router closed its link to the node.");
    this.#options.onChange();
  }

  #connect(): void {
    const { target, transport, routerId, connectTimeoutMs, clock } = this.#options;
    const timer = clock.setTimer(connectTimeoutMs, () =>
      this.#lose(stream, new Error(`no hello within ${connectTimeoutMs} ms`)),
    );
    const stream = transport(target, {
      onMessage: (message) => this.#onMessage(stream, message),
      onEnd: (cause) => this.#lose(stream, cause ?? new Error("the agent ended the stream")),
    });
    this.#state = { kind: "greeting", stream, timer };
    stream.send(
      create(ConnectRequestSchema, {
        frame: { case: "hello", value: { versions: [protocolVersion], routerId } },
      }),
    );
  }

  #onMessage(stream: LinkStream, message: ConnectResponse): void {
    const state = this.#state;
    if ((state.kind !== "up" && state.kind !== "greeting") || state.stream !== stream) return;
    this.#lastHeardMs = this.#options.clock.monotonicMs();
    const { frame } = message;
    switch (frame.case) {
      case "hello":
        if (state.kind === "greeting") this.#greet(state, frame.value);
        return;
      case "step":
        if (state.kind === "greeting") this.#lose(stream, new Error("protocol error: a step before the hello"));
        else this.#step(frame.value);
        return;
      case "drain":
        if (state.kind !== "up") return;
        this.#state = { ...state, retiring: true };
        this.#options.logger.info("agent drains", { nodeId: this.#options.nodeId, calls: this.#calls.size });
        this.#options.onChange();
        return;
      case undefined:
        // A frame that only a newer agent knows.
        return;
    }
  }

  #greet(state: LinkState & { kind: "greeting" }, hello: AgentHello): void {
    const { nodeId, backoff, logger, metrics, target } = this.#options;
    if (hello.version !== protocolVersion) {
      this.#lose(state.stream, new Error(`the agent chose version ${hello.version}, we speak ${protocolVersion}`));
      return;
    }
    if (hello.nodeId !== nodeId) {
      this.#lose(state.stream, new Error(`${target.address} is node ${hello.nodeId}, not ${nodeId}`));
      return;
    }
    state.timer.cancel();
    backoff.reset();
    this.#failures = 0;
    for (const info of hello.replicas) this.#replicas.set(info.replicaId, { info, load: undefined, inFlight: 0 });
    const heartbeat = this.#watchHeartbeat(state.stream, Math.max(1, hello.heartbeatIntervalMs));
    this.#state = { kind: "up", stream: state.stream, heartbeat, retiring: false };
    metrics.up();
    logger.info("link up", { nodeId, address: target.address, replicas: hello.replicas.length });
    this.#options.onChange();
  }

  #watchHeartbeat(stream: LinkStream, intervalMs: number): Timer {
    const { clock } = this.#options;
    const limitMs = intervalMs * missedHeartbeats;
    let timer: Timer;
    let suspected = false;
    const check = (): void => {
      const silentMs = clock.monotonicMs() - this.#lastHeardMs;
      if (silentMs < limitMs) {
        suspected = false;
        timer = clock.setTimer(limitMs - silentMs, check);
      } else if (suspected) {
        this.#lose(stream, new Error(`the agent was silent for ${Math.round(silentMs)} ms`));
      } else {
        // If this process was held up itself, what the agent said lies unread in the socket: read it first.
        suspected = true;
        timer = clock.setTimer(1, check);
      }
    };
    timer = clock.setTimer(limitMs, check);
    return { cancel: () => timer.cancel() };
  }

  #step(step: StepBatch): void {
    this.#options.metrics.step(step.deltas.length);
    let changed = false;
    for (const info of step.replicas) {
      const known = this.#replicas.get(info.replicaId);
      if (known) known.info = info;
      else this.#replicas.set(info.replicaId, { info, load: undefined, inFlight: 0 });
      changed = true;
    }
    for (const load of step.loads) {
      const known = this.#replicas.get(load.replicaId);
      if (known) known.load = load;
    }
    for (const delta of step.deltas) {
      // Unknown numbers are calls of a stream before this one; they cannot come, and must not harm.
      const call = this.#calls.get(delta.number);
      if (!call) continue;
      for (const response of delta.responses) call.events.onResponse(response, 0, response.length);
      if (delta.completionTokens > 0) call.events.onTokens(delta.completionTokens);
      if (delta.end) {
        this.#calls.delete(delta.number);
        call.replica.inFlight -= 1;
        call.events.onEnd(delta.end);
      }
    }
    if (changed) this.#options.onChange();
    this.#closeIfDone();
  }

  /** From `greeting` or `up` to `waiting`, unless `stream` is an old one. */
  #lose(stream: LinkStream, cause: Error): void {
    const state = this.#state;
    if ((state.kind !== "greeting" && state.kind !== "up") || state.stream !== stream) return;
    const { nodeId, target, backoff, clock, logger, metrics } = this.#options;
    if (state.kind === "up") state.heartbeat.cancel();
    else state.timer.cancel();
    const delayMs = backoff.nextMs();
    this.#state = { kind: "waiting", timer: clock.setTimer(delayMs, () => this.#connect()) };
    stream.close();
    const level = this.#failures === 0 ? "warn" : "debug";
    this.#failures += 1;
    logger[level](state.kind === "up" ? "link lost" : "link not opened", {
      nodeId,
      address: target.address,
      calls: this.#calls.size,
      retryInMs: Math.round(delayMs),
      error: cause,
    });
    if (state.kind === "up") metrics.down("lost");
    else metrics.failed();
    this.#endCalls(
      `The connection to the node was lost: ${state.kind === "up" ? "its agent went away" : "it did not answer"}.`,
    );
    this.#options.onChange();
    this.#closeIfDone();
  }

  #endCalls(message: string): void {
    this.#replicas.clear();
    this.#starts = [];
    this.#cancels = [];
    const lost = [...this.#calls.values()];
    this.#calls.clear();
    for (const call of lost) call.events.onEnd(create(CallEndSchema, { reason: Reason.NODE_LOST, message }));
  }

  #flushSoon(): void {
    if (this.#flushing) return;
    this.#flushing = true;
    setImmediate(() => {
      this.#flushing = false;
      if (this.#state.kind !== "up" || this.#starts.length + this.#cancels.length === 0) return;
      const starts = this.#starts;
      const cancels = this.#cancels;
      this.#starts = [];
      this.#cancels = [];
      this.#state.stream.send(create(ConnectRequestSchema, { frame: { case: "calls", value: { starts, cancels } } }));
    });
  }

  #closeIfDone(): void {
    if (this.#retired && this.#calls.size === 0) this.close();
  }
}

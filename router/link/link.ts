import { create, toBinary } from "@bufbuild/protobuf";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import {
  type AgentHello,
  CallEndSchema,
  ConnectRequestSchema,
  type HeldCall,
  type PrefixDigest,
  type ReplicaInfo,
} from "#gen/helixmesh/link/v1/link_pb.ts";
import { ReplicaState } from "#gen/helixmesh/type/v1/type_pb.ts";
import type { Backoff } from "#kernel/backoff.ts";
import type { Clock, Timer } from "#kernel/clock.ts";
import { unreachable } from "#kernel/invariant.ts";
import type { Logger } from "#kernel/log.ts";
import { NumberMap } from "#kernel/number-map.ts";
import { atTurnEnd } from "#kernel/wire/index.ts";
import type { ReplicaView } from "../routing/replica-view.ts";
import { CallQueue, type LinkFind, type LinkResume, type LinkStart } from "./call-queue.ts";
import { LinkCall, type LinkCallEvents } from "./link-call.ts";
import type { LinkMetrics } from "./link-metrics.ts";
import { LinkReplica } from "./link-replica.ts";
import { ResponseReader, type ResponseSink } from "./response-reader.ts";
import { Silence } from "./silence.ts";
import type { LinkStream, LinkTarget, LinkTransport } from "./transport.ts";

/** The version of link.v1 that this router speaks. */
const protocolVersion = 1;
export interface LinkOptions {
  readonly nodeId: string;
  readonly target: LinkTarget;
  readonly routerId: string;
  /** This process: see link.v1 RouterHello. */
  readonly instanceId: string;
  readonly transport: LinkTransport;
  /** From opening the connection to the agent's hello. */
  readonly connectTimeoutMs: number;
  /** No shorter silence of an agent with running calls is its loss. */
  readonly patienceMs: number;
  readonly backoff: Backoff;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly metrics: LinkMetrics;
  /** The link or one of its replicas may take calls now, or no longer. */
  readonly onChange: () => void;
  /** A replica's load came, and the step that it came with has been taken in. */
  readonly onLoad: (replicaId: string) => void;
  /** News of what a replica's cache holds. "gap": something before it is missing, so a snapshot must come. */
  readonly onPrefixes: (digest: PrefixDigest, blockBytes: number) => "ok" | "gap";
  /** The agent holds a call whose router is gone, or holds it no longer, or has one that this router asked for. */
  readonly onHeld: (news: HeldCall) => void;
  /** Nothing is known any more of what the node's caches hold, nor of the calls that it holds. */
  readonly onForget: () => void;
}

type LinkState =
  | { readonly kind: "greeting"; readonly stream: LinkStream; readonly timer: Timer }
  /** `retiring`: no new calls, because the agent drains or the node left the snapshot. */
  | { readonly kind: "up"; readonly stream: LinkStream; readonly silence: Silence; readonly retiring: boolean }
  | { readonly kind: "waiting"; readonly timer: Timer }
  | { readonly kind: "closed" };

/** The one connection to one agent, kept up until `close`. */
export class Link {
  readonly #options: LinkOptions;
  readonly #reader = new ResponseReader(this.#sink());
  readonly #queue = new CallQueue();
  readonly #replicas = new Map<string, LinkReplica>();
  readonly #calls = new NumberMap<LinkCall>();
  #state: LinkState = { kind: "closed" };
  #retired = false;
  #nextNumber = 1;
  #flushing = false;
  #prefixBlockBytes = 0;
  /** A replica changed in the step that is being read. */
  #changed = false;
  /** Replicas whose load came with this step. */
  readonly #loaded: string[] = [];
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
    return this.#replicas.get(replicaId);
  }

  /** Undefined when the replica takes no calls at this moment. The start leaves with others of this event-loop turn. */
  start(start: LinkStart, events: LinkCallEvents): LinkCall | undefined {
    const state = this.#state;
    const replica = this.#replicas.get(start.replicaId);
    if (state.kind !== "up" || state.retiring || this.#retired) return undefined;
    if (replica?.state !== ReplicaState.READY) return undefined;
    const number = this.#nextNumber++;
    this.#queue.start(number, start);
    return this.#run(number, replica, state.silence, events);
  }

  /** Asks whether the agent has the call; if so, `onHeld` hears it. */
  find(call: LinkFind): void {
    if (this.#state.kind !== "up") return;
    this.#queue.find(call);
    this.#flushSoon();
  }

  /** As `start`, for a call that the agent has, whatever its replica takes besides. */
  resume(resume: LinkResume, events: LinkCallEvents): LinkCall | undefined {
    const state = this.#state;
    const replica = this.#replicas.get(resume.replicaId);
    if (state.kind !== "up" || !replica) return undefined;
    const number = this.#nextNumber++;
    this.#queue.resume(number, resume);
    return this.#run(number, replica, state.silence, events);
  }

  #run(number: number, replica: LinkReplica, silence: Silence, events: LinkCallEvents): LinkCall {
    replica.inFlight += 1;
    const call = new LinkCall(number, replica, events, this);
    this.#calls.set(number, call);
    this.#flushSoon();
    silence.tighten(this.#calls.size === 1);
    return call;
  }

  /** Stops a call; harmless for one that is over. */
  cancel(number: number): void {
    if (!this.#calls.has(number)) return;
    this.#queue.cancel(number);
    this.#flushSoon();
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
        state.silence.stop();
        state.stream.close();
        this.#options.metrics.down("closed");
        this.#options.onForget();
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
    const { target, transport, routerId, instanceId, connectTimeoutMs, clock } = this.#options;
    const timer = clock.setTimer(connectTimeoutMs, () =>
      this.#lose(stream, new Error(`no hello within ${connectTimeoutMs} ms`)),
    );
    const stream = transport(target, {
      onMessage: (bytes, start, end) => this.#onMessage(stream, bytes, start, end),
      onWritable: () => this.#flushSoon(),
      onEnd: (cause) => this.#lose(stream, cause ?? new Error("the agent ended the stream")),
    });
    this.#state = { kind: "greeting", stream, timer };
    const value = { versions: [protocolVersion], routerId, instanceId };
    const hello = toBinary(ConnectRequestSchema, create(ConnectRequestSchema, { frame: { case: "hello", value } }));
    stream.send(hello, 0, hello.length);
  }

  #onMessage(stream: LinkStream, bytes: Buffer, start: number, end: number): void {
    const state = this.#state;
    if ((state.kind !== "up" && state.kind !== "greeting") || state.stream !== stream) return;
    const nowMs = this.#options.clock.monotonicMs();
    if (state.kind === "up") state.silence.heard(nowMs);
    this.#reader.read(bytes, start, end, nowMs);
  }

  #sink(): ResponseSink {
    return {
      onHello: (hello) => {
        if (this.#state.kind === "greeting") this.#greet(this.#state, hello);
      },
      onDrain: () => {
        if (this.#state.kind !== "up") return;
        this.#state = { ...this.#state, retiring: true };
        this.#options.logger.info("agent drains", { nodeId: this.#options.nodeId, calls: this.#calls.size });
        this.#options.onChange();
      },
      onStep: () => {
        if (this.#state.kind === "greeting") {
          this.#lose(this.#state.stream, new Error("protocol error: a step before the hello"));
        }
        return this.#state.kind === "up";
      },
      onReplica: (info) => {
        if (this.#setReplica(info)) this.#changed = true;
      },
      onLoad: (replicaId, bytes, start, end) => {
        this.#replicas.get(replicaId)?.setLoad(bytes, start, end);
        this.#loaded.push(replicaId);
      },
      onPrefixes: (digest) => {
        if (this.#options.onPrefixes(digest, this.#prefixBlockBytes) === "ok") return;
        this.#queue.resendPrefixes(digest.replicaId);
        this.#flushSoon();
      },
      onHeld: (news) => this.#options.onHeld(news),
      // Unknown numbers are calls of a stream before this one; they cannot come, and must not harm.
      call: (number) => this.#calls.get(number),
      onCallEnd: (number, end) => {
        const call = this.#calls.get(number);
        if (!call) return;
        this.#calls.delete(number);
        call.replica.inFlight -= 1;
        call.onEnd(end);
      },
      onStepEnd: (deltas) => {
        this.#options.metrics.step(deltas);
        if (this.#changed) this.#options.onChange();
        this.#changed = false;
        for (const replicaId of this.#loaded.splice(0)) this.#options.onLoad(replicaId);
        this.#closeIfDone();
      },
    };
  }

  /** False: only its progress is another, which makes nobody ready. */
  #setReplica(info: ReplicaInfo): boolean {
    const known = this.#replicas.get(info.replicaId);
    if (!known) {
      this.#replicas.set(info.replicaId, new LinkReplica(info));
      return true;
    }
    const { state, progress } = known;
    known.info = info;
    return state !== info.state || progress === info.progress;
  }

  #greet(state: LinkState & { kind: "greeting" }, hello: AgentHello): void {
    const { nodeId, backoff, clock, logger, metrics, target, patienceMs } = this.#options;
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
    for (const info of hello.replicas) this.#setReplica(info);
    this.#prefixBlockBytes = hello.prefixBlockBytes;
    for (const held of hello.heldCalls) this.#options.onHeld(held);
    const { heartbeatIntervalMs, busyHeartbeatIntervalMs } = hello;
    const silence = new Silence({
      clock,
      heartbeatMs: Math.max(1, heartbeatIntervalMs),
      busyHeartbeatMs: Math.max(1, busyHeartbeatIntervalMs || heartbeatIntervalMs),
      patienceMs,
      stepMs: () => this.#stepMs(),
      onSilent: (ms) => this.#lose(state.stream, new Error(`the agent was silent for ${Math.round(ms)} ms`)),
    });
    this.#state = { kind: "up", stream: state.stream, silence, retiring: false };
    metrics.up();
    logger.info("link up", { nodeId, address: target.address, replicas: hello.replicas.length });
    this.#options.onChange();
  }

  /** The longest step among the replicas that run calls of ours; undefined when one of them has not been measured. */
  #stepMs(): number | undefined {
    let longestUs = 0;
    for (const { inFlight, load } of this.#replicas.values()) {
      if (inFlight === 0) continue;
      if (!load?.stepTimeUs) return undefined;
      longestUs = Math.max(longestUs, load.stepTimeUs);
    }
    return longestUs === 0 ? undefined : longestUs / 1_000;
  }

  /** From `greeting` or `up` to `waiting`, unless `stream` is an old one. */
  #lose(stream: LinkStream, cause: Error): void {
    const state = this.#state;
    if ((state.kind !== "greeting" && state.kind !== "up") || state.stream !== stream) return;
    const { nodeId, target, backoff, clock, logger, metrics } = this.#options;
    if (state.kind === "up") state.silence.stop();
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
    if (state.kind === "up") {
      metrics.down("lost");
      this.#options.onForget();
    } else {
      metrics.failed();
    }
    this.#endCalls(
      `The connection to the node was lost: ${state.kind === "up" ? "its agent went away" : "it did not answer"}.`,
    );
    this.#options.onChange();
    this.#closeIfDone();
  }

  #endCalls(message: string): void {
    this.#replicas.clear();
    this.#queue.clear();
    const lost = this.#calls.values();
    this.#calls.clear();
    for (const call of lost) call.onEnd(create(CallEndSchema, { reason: Reason.NODE_LOST, message }));
  }

  /** While the agent does not read, starts wait here, where a lost link ends them. */
  #flushSoon(): void {
    if (this.#flushing) return;
    this.#flushing = true;
    atTurnEnd(() => {
      this.#flushing = false;
      if (this.#state.kind !== "up") return;
      const { stream } = this.#state;
      while (!this.#queue.isEmpty && stream.writable) {
        const { bytes, length } = this.#queue.take();
        stream.send(bytes, 0, length);
      }
    });
  }

  #closeIfDone(): void {
    if (this.#retired && this.#calls.size === 0) this.close();
  }
}

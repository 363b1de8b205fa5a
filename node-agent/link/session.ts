import { create, toBinary } from "@bufbuild/protobuf";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import {
  type CallBatch,
  type CallEnd,
  CallEndSchema,
  ConnectResponseSchema,
  type HeldCall,
  type ReplicaInfo,
  type ResumeCall,
  type StartCall,
} from "#gen/helixmesh/link/v1/link_pb.ts";
import type { Clock, Timer } from "#kernel/clock.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { atTurnEnd } from "#kernel/wire/index.ts";
import type { CallFinder } from "./call-finder.ts";
import type { HeldCalls } from "./held-calls.ts";
import { Outbox, type OutboxLimits } from "./outbox.ts";
import { PrefixFeed } from "./prefix-feed.ts";
import type { PrefixChange, PrefixSource } from "./prefix-source.ts";
import { RouterWatch } from "./router-watch.ts";
import { type CallOwner, type CallSink, type RunningCall, SessionCall } from "./session-call.ts";

/** Runs what routers ask for. A refusal is an end, not a throw. */
export interface CallRunner {
  start(start: StartCall, sink: CallSink): RunningCall;
}

export interface SessionLimits extends OutboxLimits {
  /** Calls in flight on one link. */
  readonly calls: number;
}

/** The session's way to its router. */
export interface SessionPipe {
  /** The router reads what it was sent. */
  readonly writable: boolean;
  /** One ConnectResponse, encoded; copied before this returns. */
  send(bytes: Uint8Array, start: number, end: number): void;
  /** Ends the stream behind what was sent, well or with the fault. */
  end(error: MeshError | undefined): void;
  /** The router has read all that was sent before, once it answers. */
  ping(onAnswer: () => void): void;
  /** For a router that is gone: the connection is lost. */
  cut(reason: string): void;
}

/** Encoded ReplicaLoads by replica. */
export type EncodedLoads = ReadonlyMap<string, Uint8Array>;

export interface SessionOptions {
  readonly pipe: SessionPipe;
  readonly prefixes: PrefixSource;
  /** Loads of all replicas at this moment. */
  readonly readLoads: () => EncodedLoads;
  readonly limits: SessionLimits;
  readonly heartbeatMs: number;
  readonly clock: Clock;
  readonly runner: CallRunner;
  readonly held: HeldCalls;
  /** Of this node's calls, whatever their link. */
  readonly finder: CallFinder;
  /** The router's process (RouterHello.instance_id). */
  readonly instanceId: string;
  readonly onRefused: (reason: Reason) => void;
  readonly onCallOverflow: () => void;
  /** Another link took a call from this one. */
  readonly onCallTaken: () => void;
}

type Life =
  | { readonly kind: "open" }
  /** Told to drain: refuses new calls, ends when the last one has. */
  | { readonly kind: "draining" }
  | { readonly kind: "closed" };

/**
 * One router's stream after the hellos. All that happens in one event-loop turn leaves in one message at its end; while
 * the router does not read, nothing is sent and what happens joins.
 */
export class Session implements CallOwner {
  readonly #options: SessionOptions;
  readonly #outbox: Outbox;
  readonly #prefixes: PrefixFeed;
  readonly #calls = new Map<number, SessionCall>();
  readonly #watch: RouterWatch;
  #life: Life = { kind: "open" };
  #sentSinceTick = false;
  #heartbeatDue = false;
  /** Of the notice that has not been sent. */
  #drainTimeoutMs: number | undefined;
  #flushDue = false;
  #tick: Timer | undefined;

  constructor(options: SessionOptions) {
    this.#options = options;
    this.#outbox = new Outbox(options.limits);
    this.#prefixes = new PrefixFeed(options.prefixes);
    const { pipe, heartbeatMs } = options;
    this.#watch = new RouterWatch({
      ask: (onAnswer) => pipe.ping(onAnswer),
      onSilent: () => pipe.cut(`the router gave no sign of life for ${3 * heartbeatMs} ms`),
    });
    this.#armHeartbeat();
    this.setLoads(options.readLoads());
  }

  get callCount(): number {
    return this.#calls.size;
  }

  /** Those that another router may take up. A router of an older release would not know what became of them. */
  get attachedCalls(): Iterable<SessionCall> {
    return this.#life.kind === "closed" || this.#options.instanceId === "" ? [] : this.#calls.values();
  }

  receive(batch: CallBatch): void {
    // Starts first: a call started and cancelled in one turn must not run on.
    for (const start of batch.starts) this.#start(start);
    for (const resume of batch.resumes) this.#resume(resume);
    for (const number of batch.cancels) {
      this.#calls.get(number)?.cancel(new MeshError(Reason.CANCELLED, "The caller cancelled the call."));
    }
    if (batch.finds.length > 0) for (const found of this.#options.finder.answer(batch.finds)) this.setHeld(found);
    for (const replicaId of batch.resendPrefixes) this.#prefixes.resend(replicaId);
    if (batch.resendPrefixes.length > 0) this.flushSoon();
  }

  /** The loads of all replicas; what changed is sent, and with it whatever prefix changes wait. */
  setLoads(loads: EncodedLoads): void {
    for (const [replicaId, load] of loads) this.#outbox.setLoad(replicaId, load);
    this.#outbox.keepLoadsOf(loads);
    if (!this.#outbox.isEmpty || !this.#prefixes.isEmpty) this.flushSoon();
  }

  /** Leaves with the next step, or with the next look at loads: a pick that knows a prefix 100 ms later is no worse. */
  setPrefixes(replicaId: string, change: PrefixChange): void {
    this.#prefixes.change(replicaId, change);
  }

  setReplica(replica: ReplicaInfo): void {
    this.#outbox.setReplica(replica);
    this.flushSoon();
  }

  /** A call is held, or no longer, or is where its router asked for it. */
  setHeld(news: HeldCall): void {
    this.#outbox.setHeld(news);
    this.flushSoon();
  }

  /** Announces that no new calls are taken; the stream ends after the last one's end. */
  drain(timeoutMs: number): void {
    if (this.#life.kind !== "open") return;
    this.#life = { kind: "draining" };
    this.#drainTimeoutMs = timeoutMs;
    this.flushSoon();
  }

  /** Cancels what runs; each call's end still reaches the router, unless the stream is gone. */
  cancelAll(error: MeshError): void {
    for (const call of this.#calls.values()) call.cancel(error);
  }

  /** Ends the stream, for `error` if there is one; everything that ran for it is cancelled. Idempotent. */
  close(error?: MeshError): void {
    if (this.#life.kind === "closed") return;
    this.#life = { kind: "closed" };
    this.#tick?.cancel();
    this.cancelAll(linkEnded());
    for (const call of this.#watch.takeUnheard()) call.forget();
    this.#options.pipe.end(error);
  }

  /** The connection broke without a word: calls are held for another router, and cancelled where they cannot be. */
  lost(): void {
    const { held, instanceId } = this.#options;
    if (this.#life.kind === "open") {
      for (const [number, call] of this.#calls) if (held.hold(call, instanceId)) this.#calls.delete(number);
      for (const call of this.#watch.takeUnheard()) if (!held.hold(call, instanceId)) call.forget();
    }
    this.close();
  }

  /** Of a call: what it says leaves with this turn's message. */
  onResponses(call: SessionCall, responses: readonly Uint8Array[], completionTokens: number): void {
    if (this.#life.kind === "closed" || call.full) return;
    const outcome = this.#outbox.push(call.number, call.start.replicaId, responses, completionTokens);
    if (outcome === "queued") return this.flushSoon();
    this.#options.onCallOverflow();
    if (outcome === "link-full") return this.close(linkFull(this.#options.limits.linkBytes));
    call.full = true;
    call.cancel(callFull(this.#options.limits.callBytes));
  }

  /** Of a call. */
  onEnd(call: SessionCall, end: CallEnd): void {
    this.#calls.delete(call.number);
    if (this.#life.kind === "closed") return call.forget();
    this.#outbox.end(call.number, call.start.replicaId, end);
    this.flushSoon();
    if (call.resumable) this.#watch.ended(call);
    else call.forget();
  }

  /** Of a call that goes on all the same. */
  onForgotten(): void {}

  /** Its client came back through another link: the router here, if it lives, hears that it has the call no longer. */
  onTaken(call: SessionCall): void {
    this.#options.onCallTaken();
    this.#calls.delete(call.number);
    this.#outbox.end(call.number, call.start.replicaId, callEnd(resumedElsewhere()));
    this.flushSoon();
  }

  /** Sends what waits when this turn ends; also for the transport, which is writable again. */
  flushSoon(): void {
    if (this.#flushDue) return;
    this.#flushDue = true;
    atTurnEnd(() => {
      this.#flushDue = false;
      this.#flush();
    });
  }

  #flush(): void {
    const { pipe, readLoads } = this.#options;
    if (this.#life.kind === "closed" || !pipe.writable) return;
    const outbox = this.#outbox;
    if (this.#drainTimeoutMs !== undefined) {
      const value = { timeoutMs: BigInt(Math.round(this.#drainTimeoutMs)) };
      const notice = toBinary(
        ConnectResponseSchema,
        create(ConnectResponseSchema, { frame: { case: "drain", value } }),
      );
      this.#drainTimeoutMs = undefined;
      pipe.send(notice, 0, notice.length);
    }
    if (outbox.steppedReplicas.size > 0) {
      for (const [replicaId, load] of readLoads()) {
        if (outbox.steppedReplicas.has(replicaId)) outbox.setLoad(replicaId, load);
      }
    }
    if (!this.#prefixes.isEmpty) outbox.setDigests(this.#prefixes.take());
    if (!outbox.isEmpty || this.#heartbeatDue) {
      this.#sentSinceTick = true;
      this.#heartbeatDue = false;
      const { bytes, length } = outbox.take();
      pipe.send(bytes, 0, length);
    }
    if (this.#life.kind === "draining" && this.#calls.size === 0) this.close();
  }

  #start(start: StartCall): void {
    const { number } = start;
    if (this.#isReused(number)) return;
    const refusal = this.#refusal();
    if (refusal !== undefined) {
      this.#options.onRefused(refusal.reason);
      this.#outbox.end(number, start.replicaId, callEnd(refusal));
      this.flushSoon();
      return;
    }
    const call = new SessionCall(start, this, this.#options.held.kept);
    this.#calls.set(number, call);
    call.running = this.#options.runner.start(start, call);
    // What it said at once was too much for the link.
    if (this.#life.kind === "closed") call.cancel(linkEnded());
  }

  #resume(resume: ResumeCall): void {
    const { number } = resume;
    if (this.#isReused(number)) return;
    const call = this.#refusal() ?? this.#options.finder.find(resume);
    if (call instanceof MeshError) {
      this.#options.onRefused(call.reason);
      this.#outbox.end(number, "", callEnd(call));
      return this.flushSoon();
    }
    const { responses, completionTokens, end } = call.adopt(this, number);
    this.#calls.set(number, call);
    this.#outbox.replay(number, call.start.replicaId, responses, completionTokens);
    this.flushSoon();
    if (end) this.onEnd(call, end);
  }

  /** A reused number would mix two calls' tokens: the router is broken, so nothing on this stream can be trusted. */
  #isReused(number: number): boolean {
    if (!this.#calls.has(number)) return false;
    const message = `Call number ${number} is in use on this link; numbers are never reused.`;
    this.close(new MeshError(Reason.INVALID_REQUEST, message, { field: "calls.starts.number" }));
    return true;
  }

  #refusal(): MeshError | undefined {
    if (this.#life.kind !== "open")
      return new MeshError(Reason.DRAINING, "The node is shutting down; try another one.");
    const { calls } = this.#options.limits;
    if (this.#calls.size < calls) return undefined;
    return new MeshError(Reason.OVERLOADED, `The node takes at most ${calls} calls from one router; try again later.`, {
      limit: `${calls} calls`,
    });
  }

  /** Looks twice an interval, so that the gap between two messages never exceeds one, or half of one while calls run. */
  #armHeartbeat(): void {
    this.#tick = this.#options.clock.setTimer(
      this.#options.heartbeatMs / 2,
      () => {
        if (this.#life.kind === "closed") return;
        const isBusy = this.#calls.size > 0;
        if (isBusy || !this.#sentSinceTick) {
          this.#heartbeatDue = true;
          this.flushSoon();
        }
        this.#sentSinceTick = false;
        this.#armHeartbeat();
        // Maybe the end of this session.
        this.#watch.tick(isBusy);
      },
      { unref: true },
    );
  }
}

function resumedElsewhere(): MeshError {
  const message = "The call's client resumed it over another connection, which has the rest of it.";
  return new MeshError(Reason.RESUMED_ELSEWHERE, message);
}

function linkEnded(): MeshError {
  return new MeshError(Reason.CANCELLED, "The link to the router ended.");
}

function callEnd(error: MeshError): CallEnd {
  const { reason, message, field, limit } = error;
  return create(CallEndSchema, { reason, message, field, limit, usage: {} });
}

function callFull(bytes: number): MeshError {
  return new MeshError(
    Reason.OVERLOADED,
    `The call was read too slowly: more than ${bytes} bytes waited for the router.`,
    {
      limit: `${bytes} bytes`,
    },
  );
}

function linkFull(bytes: number): MeshError {
  return new MeshError(
    Reason.OVERLOADED,
    `The link was read too slowly: more than ${bytes} bytes waited for the router.`,
    {
      limit: `${bytes} bytes`,
    },
  );
}

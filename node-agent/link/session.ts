import { create, toBinary } from "@bufbuild/protobuf";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import {
  type CallBatch,
  type CallEnd,
  CallEndSchema,
  ConnectResponseSchema,
  type ReplicaInfo,
  type StartCall,
} from "#gen/helixmesh/link/v1/link_pb.ts";
import type { Clock, Timer } from "#kernel/clock.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { atTurnEnd } from "#kernel/wire/index.ts";
import { Outbox, type OutboxLimits } from "./outbox.ts";
import { PrefixFeed } from "./prefix-feed.ts";
import type { PrefixChange, PrefixSource } from "./prefix-source.ts";

/** A call that runs on behalf of a link. */
export interface RunningCall {
  /** Stops it within one step; its end still comes through the sink. `error` is what the end says. Idempotent. */
  cancel(error: MeshError): void;
}

/** Where a running call delivers. Nothing may come after `end`; `end` comes exactly once, on every path. */
export interface CallSink {
  push(responses: readonly Uint8Array[], completionTokens: number): void;
  end(end: CallEnd): void;
}

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
  readonly onRefused: (reason: Reason) => void;
  readonly onCallOverflow: () => void;
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
export class Session {
  readonly #options: SessionOptions;
  readonly #outbox: Outbox;
  readonly #prefixes: PrefixFeed;
  readonly #calls = new Map<number, RunningCall>();
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
    this.#armHeartbeat();
    this.setLoads(options.readLoads());
  }

  get callCount(): number {
    return this.#calls.size;
  }

  receive(batch: CallBatch): void {
    // Starts first: a call started and cancelled in one turn must not run on.
    for (const start of batch.starts) this.#start(start);
    for (const number of batch.cancels) {
      this.#calls.get(number)?.cancel(new MeshError(Reason.CANCELLED, "The caller cancelled the call."));
    }
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
    this.cancelAll(new MeshError(Reason.CANCELLED, "The link to the router ended."));
    this.#options.pipe.end(error);
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
    if (this.#calls.has(number)) {
      // A reused number would mix two calls' tokens: the router is broken, so nothing on this stream can be trusted.
      this.close(
        new MeshError(
          Reason.INVALID_REQUEST,
          `Call number ${number} is in use on this link; numbers are never reused.`,
          {
            field: "calls.starts.number",
          },
        ),
      );
      return;
    }
    const refusal = this.#refusal();
    if (refusal !== undefined) {
      this.#options.onRefused(refusal.reason);
      this.#outbox.end(number, start.replicaId, callEnd(refusal));
      this.flushSoon();
      return;
    }
    let ended = false;
    let overflowed = false;
    const sink: CallSink = {
      push: (responses, completionTokens) => {
        if (overflowed || ended || this.#life.kind === "closed") return;
        const outcome = this.#outbox.push(number, start.replicaId, responses, completionTokens);
        if (outcome === "queued") return this.flushSoon();
        overflowed = true;
        this.#options.onCallOverflow();
        if (outcome === "link-full") return this.close(linkFull(this.#options.limits.linkBytes));
        this.#calls.get(number)?.cancel(callFull(this.#options.limits.callBytes));
      },
      end: (end) => {
        if (ended) return;
        ended = true;
        this.#calls.delete(number);
        if (this.#life.kind === "closed") return;
        this.#outbox.end(number, start.replicaId, end);
        this.flushSoon();
      },
    };
    const call = this.#options.runner.start(start, sink);
    // A refused call has ended before it was returned.
    if (!ended) this.#calls.set(number, call);
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

  /** Looks twice an interval, so that the gap between two messages never exceeds one. */
  #armHeartbeat(): void {
    this.#tick = this.#options.clock.setTimer(
      this.#options.heartbeatMs / 2,
      () => {
        if (this.#life.kind === "closed") return;
        if (!this.#sentSinceTick) {
          this.#heartbeatDue = true;
          this.flushSoon();
        }
        this.#sentSinceTick = false;
        this.#armHeartbeat();
      },
      { unref: true },
    );
  }
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

import { create } from "@bufbuild/protobuf";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import {
  type CallBatch,
  type CallEnd,
  CallEndSchema,
  type ConnectResponse,
  ConnectResponseSchema,
  DrainNoticeSchema,
  type ReplicaInfo,
  type StartCall,
} from "#gen/helixmesh/link/v1/link_pb.ts";
import type { ReplicaLoad } from "#gen/helixmesh/type/v1/type_pb.ts";
import type { Clock, Timer } from "#kernel/clock.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { Outbox, type OutboxLimits } from "./outbox.ts";

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

export interface SessionOptions {
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
  /** The stream is over, for `error` if it was ours to end. */
  | { readonly kind: "closed"; readonly error: MeshError | undefined };

/**
 * One router's stream after the hellos, apart from any transport: frames in by `receive`, frames out by `frames`. All
 * that happens in one event-loop turn leaves in one message, since the next frame is made in the turn's last phase.
 */
export class Session {
  readonly #options: SessionOptions;
  readonly #outbox: Outbox;
  readonly #calls = new Map<number, RunningCall>();
  readonly #control: ConnectResponse[] = [];
  #life: Life = { kind: "open" };
  #sentSinceTick = false;
  #heartbeatDue = false;
  #wake: (() => void) | undefined;
  #tick: Timer | undefined;

  constructor(options: SessionOptions) {
    this.#options = options;
    this.#outbox = new Outbox(options.limits);
    this.#armHeartbeat();
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
  }

  setLoad(load: ReplicaLoad): void {
    this.#outbox.setLoad(load);
    this.#signal();
  }

  setReplica(replica: ReplicaInfo): void {
    this.#outbox.setReplica(replica);
    this.#signal();
  }

  /** Announces that no new calls are taken; the stream ends after the last one's end. */
  drain(timeoutMs: number): void {
    if (this.#life.kind !== "open") return;
    this.#life = { kind: "draining" };
    const value = create(DrainNoticeSchema, { timeoutMs: BigInt(Math.round(timeoutMs)) });
    this.#control.push(create(ConnectResponseSchema, { frame: { case: "drain", value } }));
    this.#signal();
  }

  /** Cancels what runs; each call's end still reaches the router, unless the stream is gone. */
  cancelAll(error: MeshError): void {
    for (const call of this.#calls.values()) call.cancel(error);
  }

  /** The stream is over: everything that ran for it is cancelled. Idempotent. */
  close(error?: MeshError): void {
    if (this.#life.kind === "closed") return;
    this.#life = { kind: "closed", error };
    this.#tick?.cancel();
    this.cancelAll(new MeshError(Reason.CANCELLED, "The link to the router ended."));
    this.#wake?.();
  }

  /** Frames to send, until the stream is over. Throws the error that `close` was given. */
  async *frames(): AsyncGenerator<ConnectResponse> {
    for (;;) {
      if (this.#life.kind === "closed") {
        if (this.#life.error !== undefined) throw this.#life.error;
        return;
      }
      const control = this.#control.shift();
      if (control !== undefined) {
        this.#sentSinceTick = true;
        yield control;
      } else if (!this.#outbox.isEmpty || this.#heartbeatDue) {
        this.#sentSinceTick = true;
        this.#heartbeatDue = false;
        yield create(ConnectResponseSchema, { frame: { case: "step", value: this.#outbox.take() } });
      } else if (this.#life.kind === "draining" && this.#calls.size === 0) {
        this.close();
      } else {
        await new Promise<void>((resolve) => (this.#wake = resolve));
        this.#wake = undefined;
      }
    }
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
      this.#outbox.end(number, callEnd(refusal));
      this.#signal();
      return;
    }
    let ended = false;
    let overflowed = false;
    const sink: CallSink = {
      push: (responses, completionTokens) => {
        if (overflowed || ended || this.#life.kind === "closed") return;
        const outcome = this.#outbox.push(number, responses, completionTokens);
        if (outcome === "queued") return this.#signal();
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
        this.#outbox.end(number, end);
        this.#signal();
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

  /** Wakes the sender at the end of this event-loop turn, so that all the turn brings travels together. */
  #signal(): void {
    const wake = this.#wake;
    if (wake === undefined) return;
    this.#wake = undefined;
    setImmediate(wake);
  }

  /** Looks twice an interval, so that the gap between two messages never exceeds one. */
  #armHeartbeat(): void {
    this.#tick = this.#options.clock.setTimer(
      this.#options.heartbeatMs / 2,
      () => {
        if (this.#life.kind === "closed") return;
        if (!this.#sentSinceTick) {
          this.#heartbeatDue = true;
          this.#signal();
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

import { toBinary } from "@bufbuild/protobuf";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { type WatchDesiredStateResponse, WatchDesiredStateResponseSchema } from "#gen/helixmesh/node/v1/node_pb.ts";
import type { Clock } from "#kernel/clock.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import type { Metrics } from "#kernel/metrics.ts";
import { Wakeup } from "./wakeup.ts";

/** What every registered node should run, by node id; nodes with nothing to run are listed too. */
export type DesiredStates = ReadonlyMap<string, WatchDesiredStateResponse>;

/**
 * Tells each agent what to run. Every message is full state, so a slow agent needs no queue: it gets the newest when it
 * reads. A node that is not (or no longer) registered is told nothing at all, since an empty state would make its agent
 * drop every replica; its watch ends with NOT_FOUND, which means: register again.
 */
export class NodeWatch {
  readonly #clock: Clock;
  readonly #signOfLifeMs: number;
  readonly #gauge;
  readonly #watchers = new Map<string, Set<Wakeup>>();
  #states: DesiredStates | undefined;
  #closed = false;

  constructor(options: { readonly clock: Clock; readonly metrics: Metrics; readonly signOfLifeMs: number }) {
    this.#clock = options.clock;
    this.#signOfLifeMs = options.signOfLifeMs;
    this.#gauge = options.metrics.gauge("watchers", "Open watch streams.", ["kind"]);
    this.#gauge.set({ kind: "node" }, 0);
  }

  update(states: DesiredStates): void {
    const before = this.#states;
    this.#states = states;
    for (const [nodeId, wakeups] of this.#watchers) {
      if (before && same(before.get(nodeId), states.get(nodeId))) continue;
      for (const wakeup of wakeups) wakeup.wake();
    }
  }

  async *watch(nodeId: string, signal: AbortSignal): AsyncGenerator<WatchDesiredStateResponse> {
    const wakeup = new Wakeup();
    const wakeups = this.#watchers.get(nodeId) ?? new Set();
    this.#watchers.set(nodeId, wakeups.add(wakeup));
    this.#gauge.inc({ kind: "node" });
    try {
      // A node that registered a moment ago may not have been read yet.
      let patient = true;
      while (!signal.aborted) {
        if (this.#closed) throw new MeshError(Reason.DRAINING, "The control plane is shutting down; reconnect.");
        const state = this.#states?.get(nodeId);
        if (state) {
          patient = false;
          yield state;
        } else if (!patient) {
          throw new MeshError(Reason.NOT_FOUND, "This node is not registered any more; register again.");
        }
        const news = await wakeup.wait(this.#clock, this.#signOfLifeMs, signal);
        patient &&= news;
      }
    } finally {
      wakeups.delete(wakeup);
      if (wakeups.size === 0) this.#watchers.delete(nodeId);
      this.#gauge.dec({ kind: "node" });
    }
  }

  /** Ends every watch with DRAINING. */
  close(): void {
    this.#closed = true;
    for (const wakeups of this.#watchers.values()) for (const wakeup of wakeups) wakeup.wake();
  }
}

function same(a: WatchDesiredStateResponse | undefined, b: WatchDesiredStateResponse | undefined): boolean {
  if (!a || !b) return a === b;
  return (
    Buffer.compare(toBinary(WatchDesiredStateResponseSchema, a), toBinary(WatchDesiredStateResponseSchema, b)) === 0
  );
}

import { create } from "@bufbuild/protobuf";
import {
  type Delta,
  DeltaSchema,
  type WatchResponse,
  WatchResponseSchema,
} from "#gen/helixmesh/discovery/v1/discovery_pb.ts";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import type { Clock } from "#kernel/clock.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import type { Metrics } from "#kernel/metrics.ts";
import { type MeshState, diff, toSnapshot } from "./mesh-state.ts";
import { Wakeup } from "./wakeup.ts";

export interface MeshWatchOptions {
  readonly clock: Clock;
  readonly metrics: Metrics;
  /** Deltas that may wait for one watcher. */
  readonly queueLimit: number;
  readonly signOfLifeMs: number;
}

interface Watcher {
  queue: Delta[];
  overflowed: boolean;
  readonly wakeup: Wakeup;
}

/**
 * Tells every router what changed. Each watcher starts with a snapshot and then gets every delta; the snapshot is taken
 * and the watcher enrolled in one turn, so nothing falls in between. A watcher that does not keep up is ended, never
 * skipped: a reconnect costs one snapshot, a lost delta would be wrong for ever.
 */
export class MeshWatch {
  readonly #options: MeshWatchOptions;
  readonly #watchers = new Set<Watcher>();
  readonly #gauge;
  readonly #overflows;
  #state: MeshState | undefined;
  #version = 0n;
  #closed = false;

  constructor(options: MeshWatchOptions) {
    this.#options = options;
    this.#gauge = options.metrics.gauge("watchers", "Open watch streams.", ["kind"]);
    this.#overflows = options.metrics.counter(
      "watch_overflows_total",
      "Watches ended because the watcher did not keep up.",
    );
    this.#gauge.set({ kind: "router" }, 0);
  }

  /** `version`: where versions start when this is the first state; later ones count up from there. */
  update(state: MeshState, version: bigint): void {
    if (!this.#state) {
      this.#state = state;
      this.#version = version;
      for (const watcher of this.#watchers) watcher.wakeup.wake();
      return;
    }
    const delta = diff(this.#state, state, this.#version + 1n);
    if (!delta) return;
    this.#state = state;
    this.#version = delta.version;
    for (const watcher of this.#watchers) {
      if (watcher.queue.length >= this.#options.queueLimit) {
        watcher.queue = [];
        watcher.overflowed = true;
        this.#watchers.delete(watcher);
        this.#overflows.inc();
      } else {
        watcher.queue.push(delta);
      }
      watcher.wakeup.wake();
    }
  }

  async *watch(signal: AbortSignal): AsyncGenerator<WatchResponse> {
    const { clock, signOfLifeMs } = this.#options;
    const watcher: Watcher = { queue: [], overflowed: false, wakeup: new Wakeup() };
    this.#watchers.add(watcher);
    this.#gauge.inc({ kind: "router" });
    try {
      while (!this.#state) {
        await watcher.wakeup.wait(clock, signOfLifeMs, signal);
        this.#refuseIfClosed();
        if (signal.aborted) return;
      }
      watcher.queue = [];
      let version = this.#version;
      yield create(WatchResponseSchema, { update: { case: "snapshot", value: toSnapshot(this.#state, version) } });
      for (;;) {
        for (let delta = watcher.queue.shift(); delta; delta = watcher.queue.shift()) {
          version = delta.version;
          yield create(WatchResponseSchema, { update: { case: "delta", value: delta } });
        }
        if (signal.aborted) return;
        this.#refuseIfClosed();
        if (watcher.overflowed) {
          throw new MeshError(Reason.OVERLOADED, "The watch fell too far behind; reconnect for a fresh snapshot.", {
            limit: `${this.#options.queueLimit} deltas`,
          });
        }
        const news = await watcher.wakeup.wait(clock, signOfLifeMs, signal);
        if (!news && !signal.aborted) {
          yield create(WatchResponseSchema, { update: { case: "delta", value: create(DeltaSchema, { version }) } });
        }
      }
    } finally {
      this.#watchers.delete(watcher);
      this.#gauge.dec({ kind: "router" });
    }
  }

  /** Ends every watch with DRAINING, so that routers turn to another control plane. */
  close(): void {
    this.#closed = true;
    for (const watcher of this.#watchers) watcher.wakeup.wake();
  }

  #refuseIfClosed(): void {
    if (this.#closed) throw new MeshError(Reason.DRAINING, "The control plane is shutting down; reconnect.");
  }
}

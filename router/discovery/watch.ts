import type { Client } from "@connectrpc/connect";
import type { DiscoveryService, WatchResponse } from "#gen/helixmesh/discovery/v1/discovery_pb.ts";
import type { Backoff } from "#kernel/backoff.ts";
import { type Clock, sleep } from "#kernel/clock.ts";
import type { Logger } from "#kernel/log.ts";
import type { Metrics } from "#kernel/metrics.ts";
import { type IndexedSnapshot, applyDelta, emptySnapshot, indexSnapshot } from "./snapshot.ts";

/** The control plane sends at least an empty delta every 15 s (discovery.proto); after three missed ones we reconnect. */
const staleAfterMs = 45_000;

export interface DiscoveryOptions {
  readonly client: Client<typeof DiscoveryService>;
  readonly routerId: string;
  /** What the file held, if anything. */
  readonly initial: IndexedSnapshot | undefined;
  readonly save: (snapshot: IndexedSnapshot) => void;
  readonly backoff: Backoff;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly metrics: Metrics;
}

/** Keeps the current snapshot true. While the control plane is away the last one stays, for however long. */
export class Discovery {
  readonly #options: DiscoveryOptions;
  readonly #listeners = new Set<(snapshot: IndexedSnapshot) => void>();
  readonly #stopping = new AbortController();
  readonly #connected;
  readonly #version;
  readonly #lastHeard;
  #snapshot: IndexedSnapshot;
  #present: boolean;
  #running: Promise<void> | undefined;

  constructor(options: DiscoveryOptions) {
    this.#options = options;
    this.#snapshot = options.initial ?? emptySnapshot;
    this.#present = options.initial !== undefined;
    const { metrics } = options;
    // Of several workers the one that is worst off.
    this.#connected = metrics.gauge(
      "router_discovery_connected",
      "1 while the watch of the control plane is up.",
      [],
      "min",
    );
    this.#version = metrics.gauge(
      "router_discovery_version",
      "Version of the snapshot that calls are served from.",
      [],
      "min",
    );
    this.#lastHeard = metrics.gauge(
      "router_discovery_last_heard_timestamp_seconds",
      "Unix time of the last message from the control plane; 0 before the first.",
      [],
      "min",
    );
    this.#version.set(Number(this.#snapshot.version));
  }

  get snapshot(): IndexedSnapshot {
    return this.#snapshot;
  }

  /** False until a snapshot came from the file or the control plane. */
  get present(): boolean {
    return this.#present;
  }

  onChange(listener: (snapshot: IndexedSnapshot) => void): void {
    this.#listeners.add(listener);
  }

  start(): void {
    this.#running ??= this.#run();
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#running;
  }

  async #run(): Promise<void> {
    const { backoff, clock, logger } = this.#options;
    let failures = 0;
    while (!this.#stopping.signal.aborted) {
      let cause: unknown = new Error("the control plane ended the watch");
      try {
        await this.#watchOnce(() => {
          failures = 0;
          backoff.reset();
        });
      } catch (error) {
        cause = error;
      }
      this.#connected.set(0);
      if (this.#stopping.signal.aborted) return;
      const delayMs = backoff.nextMs();
      // The first failure is news, the hundredth is not: the gauge tells how long it lasts.
      const level = failures === 0 ? "warn" : "debug";
      failures += 1;
      logger[level]("control plane lost, serving from the last snapshot", {
        version: String(this.#snapshot.version),
        retryInMs: Math.round(delayMs),
        error: cause,
      });
      await sleep(clock, delayMs, this.#stopping.signal);
    }
  }

  /** Ends when the stream does, or rejects; `onSnapshot` is called when the control plane proved to be there. */
  async #watchOnce(onSnapshot: () => void): Promise<void> {
    const { client, clock, logger, routerId } = this.#options;
    const over = new AbortController();
    const signal = AbortSignal.any([this.#stopping.signal, over.signal]);
    const expire = (): void => over.abort(new Error(`no sign of life from the control plane for ${staleAfterMs} ms`));
    let timer = clock.setTimer(staleAfterMs, expire, { unref: true });
    let first = true;
    try {
      for await (const response of client.watch({ routerId }, { signal })) {
        timer.cancel();
        timer = clock.setTimer(staleAfterMs, expire, { unref: true });
        const next = this.#after(response, first);
        if (first) {
          onSnapshot();
          this.#connected.set(1);
          logger.info("control plane connected", { version: String(next.version), nodes: next.nodes.size });
        }
        first = false;
        this.#lastHeard.set(clock.nowMs() / 1000);
        this.#adopt(next);
      }
    } finally {
      timer.cancel();
      // After a protocol error the stream is still open; leaving the loop alone does not close it.
      over.abort();
    }
  }

  #after(response: WatchResponse, first: boolean): IndexedSnapshot {
    switch (response.update.case) {
      case "snapshot":
        return indexSnapshot(response.update.value);
      case "delta": {
        if (first) throw new Error("protocol error: the watch began with a delta");
        const delta = response.update.value;
        if (delta.version < this.#snapshot.version) {
          throw new Error(`protocol error: delta ${delta.version} after version ${this.#snapshot.version}`);
        }
        return applyDelta(this.#snapshot, delta);
      }
      case undefined:
        // A kind of update that only a newer control plane knows.
        return this.#snapshot;
    }
  }

  #adopt(next: IndexedSnapshot): void {
    if (this.#present && next === this.#snapshot) return;
    this.#snapshot = next;
    this.#present = true;
    this.#version.set(Number(next.version));
    this.#options.save(next);
    for (const listener of this.#listeners) listener(next);
  }
}

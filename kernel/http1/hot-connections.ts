import type { Socket } from "node:net";
import { systemClock } from "#kernel/clock.ts";
import { Connection } from "#kernel/http1/connection.ts";
import type { HotPath } from "#kernel/http1/hot-path.ts";

export interface HotConnectionsOptions {
  readonly hot: HotPath;
  /** How long a connection may wait for its next request. */
  readonly keepAliveMs: number;
  /** During a drain: how long it may wait for one that its client has sent without knowing of the drain. */
  readonly drainIdleMs: number;
  /** For node:http: paused, and unread from the first request on that is not for the hot path. */
  readonly handOver: (socket: Socket) => void;
}

/** How late an idle connection may be closed. */
const lookMs = 5_000;

/** The HTTP/1.1 connections of a port whose requests have all been for the hot path. */
export class HotConnections {
  readonly #options: HotConnectionsOptions;
  readonly #connections = new Set<Connection>();
  #draining = false;
  #looks = false;

  constructor(options: HotConnectionsOptions) {
    this.#options = options;
  }

  /** Takes a socket whose bytes have not been read; resumes it. */
  serve(socket: Socket): void {
    const { hot, keepAliveMs, drainIdleMs, handOver } = this.#options;
    const connection = new Connection(socket, {
      hot,
      keepAliveMs,
      drainIdleMs,
      draining: () => this.#draining,
      onHandOver: (one) => {
        this.#connections.delete(one);
        handOver(one.socket);
      },
      onClose: (one) => this.#connections.delete(one),
    });
    this.#connections.add(connection);
    this.#lookSoon();
    socket.resume();
  }

  /**
   * Closes the connections that have been idle for `drainIdleMs`, the others when they have been, and each with the
   * next answer, which says so.
   */
  drain(): void {
    this.#draining = true;
    for (const connection of this.#connections) connection.drain();
  }

  #lookSoon(): void {
    if (this.#looks || this.#connections.size === 0) return;
    this.#looks = true;
    systemClock.setTimer(lookMs, () => this.#look(), { unref: true });
  }

  #look(): void {
    this.#looks = false;
    const nowMs = systemClock.monotonicMs();
    for (const connection of this.#connections) connection.look(nowMs);
    this.#lookSoon();
  }
}

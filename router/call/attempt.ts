import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import type { LinkCall } from "../link/link.ts";
import type { Picked } from "../routing/routes.ts";
import type { SentCall } from "../routing/sent-call.ts";
import type { CallParts } from "./call-parts.ts";

/** One dispatch of a call to a replica, and who learns how it fares: routing, failure handling and the queue. */
export class Attempt {
  readonly picked: Picked;
  readonly link: LinkCall;
  readonly #parts: CallParts;
  readonly #sent: SentCall;
  readonly #sentMs: number;
  #answered = false;

  constructor(parts: CallParts, picked: Picked, link: LinkCall) {
    this.picked = picked;
    this.link = link;
    this.#parts = parts;
    this.#sent = picked.dispatched();
    this.#sentMs = parts.clock.monotonicMs();
    parts.health.dispatched(picked.replicaId, picked.deployment);
  }

  /** The engine took the call. */
  admitted(promptTokens: number): void {
    this.#sent.admitted(promptTokens);
  }

  /** The first output of a generation. */
  firstToken(): void {
    this.#sent.firstToken();
    this.#succeeded();
  }

  /** The agent's last word; its place is free. */
  ended(reason: Reason): void {
    this.#sent.ended();
    const { health, rooms, queues } = this.#parts;
    const { nodeId, replicaId, deployment } = this.picked;
    if (reason === Reason.UNSPECIFIED) {
      this.#succeeded();
      rooms.ended(replicaId);
    } else health.failed(replicaId, reason);
    if (reason === Reason.OVERLOADED) rooms.refused(nodeId, replicaId);
    queues.freed(deployment);
  }

  #succeeded(): void {
    if (this.#answered) return;
    this.#answered = true;
    const { health, queues, clock } = this.#parts;
    const tookMs = clock.monotonicMs() - this.#sentMs;
    health.succeeded(this.picked.replicaId, tookMs);
    queues.served(this.picked.deployment, tookMs);
  }
}

import { create } from "@bufbuild/protobuf";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { type CallEnd, CallEndSchema, Method } from "#gen/helixmesh/link/v1/link_pb.ts";
import type { Timer } from "#kernel/clock.ts";
import type { LinkResume, LinkStart } from "../link/call-queue.ts";
import type { LinkCall, LinkCallEvents, Relay } from "../link/link-call.ts";
import type { Picked } from "../routing/routes.ts";
import type { SentCall } from "../routing/sent-call.ts";
import type { CallParts } from "./call-parts.ts";

/** Whoever made an attempt hears of it until its end, or until it leaves it. */
export interface AttemptOwner {
  /** Lent bytes, as for LinkCallEvents. */
  onResponse(attempt: Attempt, bytes: Uint8Array, start: number, end: number): void;
  /** Last, once: the agent's last word, or ENGINE_STALLED when it said nothing for too long. */
  onEnd(attempt: Attempt, end: CallEnd): void;
}

/**
 * One dispatch of a call to a replica, and who learns how it fares: routing, failure handling and the queue. Watches
 * that a generation's first token and then each next one come in time.
 */
export class Attempt implements LinkCallEvents {
  readonly picked: Picked;
  /** The engine's seeded draws are a function of (seed, position); known once it has begun. */
  seedByPosition = false;
  readonly #parts: CallParts;
  readonly #owner: AttemptOwner;
  #link: LinkCall | undefined;
  #sent: SentCall | undefined;
  #sentMs = 0;
  /** When it brought output first; when it was sent, before. */
  #progressMs = 0;
  #timer: Timer | undefined;
  #answered = false;
  /** Failure handling knows how it went. */
  #judged = false;
  #left = false;

  constructor(parts: CallParts, picked: Picked, owner: AttemptOwner) {
    this.#parts = parts;
    this.picked = picked;
    this.#owner = owner;
  }

  /** Once. False: the replica takes no calls at this moment, and nothing happened. */
  begin(start: LinkStart, nowMs: number): boolean {
    if (!this.#began(this.#parts.pool.start(this.picked.nodeId, start, this), start.method, nowMs)) return false;
    this.#sent = this.picked.dispatched();
    return true;
  }

  /** As `begin`, for a generation that the replica has been making for another router: it is in the replica's load. */
  resume(resume: LinkResume): boolean {
    const { pool, clock } = this.#parts;
    return this.#began(pool.resume(this.picked.nodeId, resume, this), Method.GENERATE, clock.monotonicMs());
  }

  #began(link: LinkCall | undefined, method: Method, nowMs: number): boolean {
    const { pool, health, settings } = this.#parts;
    const { nodeId, replicaId, deployment } = this.picked;
    this.#link = link;
    if (!link) return false;
    this.seedByPosition = pool.replica(nodeId, replicaId)?.capabilities?.seedByPosition ?? false;
    this.#sentMs = this.#progressMs = nowMs;
    health.dispatched(replicaId, deployment);
    if (method === Method.GENERATE) {
      this.#watch(Math.min(settings.firstTokenTimeoutMs, settings.interTokenTimeoutMs));
    }
    return true;
  }

  onResponse(bytes: Uint8Array, start: number, end: number): void {
    if (!this.#left) this.#owner.onResponse(this, bytes, start, end);
  }

  onEnd(end: CallEnd): void {
    this.#timer?.cancel();
    this.#sent?.ended();
    const { rooms, queues } = this.#parts;
    const { replicaId, deployment } = this.picked;
    if (end.reason === Reason.UNSPECIFIED) {
      if (!this.#answered) this.#succeeded(this.#parts.clock.monotonicMs());
      rooms.ended(replicaId);
    } else this.#failed(end.reason);
    if (end.reason === Reason.OVERLOADED) rooms.refused(replicaId);
    queues.freed(deployment);
    if (!this.#left) this.#owner.onEnd(this, end);
  }

  /** The engine took the call. */
  admitted(promptTokens: number): void {
    this.#sent?.admitted(promptTokens);
  }

  /** The first output of a generation. */
  firstToken(): void {
    const nowMs = this.#parts.clock.monotonicMs();
    this.#progressMs = nowMs;
    this.#sent?.firstToken();
    this.#succeeded(nowMs);
  }

  /** Its place on the link, where its tokens are counted; undefined before it has begun. */
  get link(): LinkCall | undefined {
    return this.#link;
  }

  /** The owner hears its end alone; its responses go to `relay`, until it is cancelled or left. */
  relayTo(relay: Relay): void {
    this.#link?.relayTo(relay);
  }

  /** Stops it; its end still comes. */
  cancel(): void {
    this.#timer?.cancel();
    this.#link?.cancel();
  }

  /** Stops it, and its owner hears nothing more of it. */
  leave(): void {
    this.#left = true;
    this.cancel();
  }

  #watch(leftMs: number): void {
    this.#timer = this.#parts.clock.setTimer(leftMs, () => this.#look());
  }

  /** Tokens set no timers: that would cost more than relaying them. */
  #look(): void {
    const { clock, settings } = this.#parts;
    const limitMs = this.#answered ? settings.interTokenTimeoutMs : settings.firstTokenTimeoutMs;
    const nowMs = clock.monotonicMs();
    const leftMs = this.#lastProgressMs(nowMs) + limitMs - nowMs;
    if (leftMs > 0) return this.#watch(leftMs);
    this.#failed(Reason.ENGINE_STALLED);
    this.leave();
    const limit = `${limitMs} ms`;
    const message = `The replica gave no ${this.#answered ? "further" : "first"} token within ${limit}.`;
    this.#owner.onEnd(this, create(CallEndSchema, { reason: Reason.ENGINE_STALLED, message, limit }));
  }

  #lastProgressMs(nowMs: number): number {
    const link = this.#link;
    return link && link.tokens > 0 ? Math.max(this.#progressMs, link.lastTokenMs(nowMs)) : this.#progressMs;
  }

  #succeeded(nowMs: number): void {
    if (this.#answered) return;
    this.#answered = true;
    const { health, queues } = this.#parts;
    const tookMs = nowMs - this.#sentMs;
    health.succeeded(this.picked.replicaId, tookMs);
    queues.served(this.picked.deployment, tookMs);
  }

  #failed(reason: Reason): void {
    if (this.#judged) return;
    this.#judged = true;
    this.#parts.health.failed(this.picked.replicaId, reason);
  }
}

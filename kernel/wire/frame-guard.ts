import { Flag, FrameType } from "#kernel/wire/frame.ts";
import type { Bound, WireLimits } from "#kernel/wire/limits.ts";
import { Bucket } from "#kernel/wire/rates.ts";
import { ErrorCode, WireError } from "#kernel/wire/wire-error.ts";

type RateBound = "resets" | "settings" | "pings" | "emptyFrames" | "windowUpdates";

/** Judges a frame by its header alone, before its payload is waited for: form, and how many of a kind there may be. */
export class FrameGuard {
  readonly #limits: WireLimits;
  readonly #reached: (bound: Bound) => void;
  readonly #buckets: Readonly<Record<RateBound, Bucket>>;
  #continuations = 0;

  constructor(limits: WireLimits, reached: (bound: Bound) => void, nowMs: number) {
    this.#limits = limits;
    this.#reached = reached;
    this.#buckets = {
      resets: new Bucket(limits.resets, nowMs),
      settings: new Bucket(limits.settings, nowMs),
      pings: new Bucket(limits.pings, nowMs),
      emptyFrames: new Bucket(limits.emptyFrames, nowMs),
      windowUpdates: new Bucket(limits.windowUpdates, nowMs),
    };
  }

  /** For any frame but DATA. */
  check(type: number, flags: number, streamId: number, length: number, nowMs: number): void {
    switch (type) {
      case FrameType.HEADERS:
        this.#onStream(streamId);
        this.#continuations = 0;
        return;
      case FrameType.CONTINUATION:
        if (++this.#continuations > this.#limits.maxContinuations) throw this.#tooMuch("maxContinuations");
        return;
      case FrameType.PRIORITY:
        this.#onStream(streamId);
        return this.spend("emptyFrames", nowMs);
      case FrameType.RST_STREAM:
        this.#sized(length, length === 4);
        return this.spend("resets", nowMs);
      case FrameType.SETTINGS:
        this.#onConnection(streamId);
        this.#sized(length, flags & Flag.ACK ? length === 0 : length % 6 === 0);
        return this.spend("settings", nowMs);
      case FrameType.PUSH_PROMISE:
        // RFC 9113, 8.4: clients must not push, and our SETTINGS forbid servers to.
        throw new WireError(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE, where push is off");
      case FrameType.PING:
        this.#sized(length, length === 8);
        this.#onConnection(streamId);
        return this.spend("pings", nowMs);
      case FrameType.GOAWAY:
        this.#onConnection(streamId);
        this.#sized(length, length >= 8);
        return this.spend("settings", nowMs);
      case FrameType.WINDOW_UPDATE:
        this.#sized(length, length === 4);
        return this.spend("windowUpdates", nowMs);
      default:
        // RFC 9113, 5.5: unknown types are ignored.
        return this.spend("emptyFrames", nowMs);
    }
  }

  spend(bound: RateBound, nowMs: number): void {
    if (!this.#buckets[bound].spend(nowMs)) throw this.#tooMuch(bound);
  }

  /** We sent DATA or HEADERS, so many frames; `whole`: of them those that no window of the peer cut short. */
  earn(frames: number, whole: number): void {
    this.#buckets.pings.earn(frames);
    // Windows of a byte are how one makes us send frames of a byte: they earn the peer nothing.
    this.#buckets.windowUpdates.earn(2 * whole);
  }

  /** A stream ended as it should: a client that cancels some of its many calls is no attacker. */
  earnReset(): void {
    this.#buckets.resets.earn(1);
  }

  #tooMuch(bound: Bound): WireError {
    this.#reached(bound);
    return new WireError(ErrorCode.ENHANCE_YOUR_CALM, `too many frames of a kind (${bound})`);
  }

  #onStream(streamId: number): void {
    if (streamId === 0) throw new WireError(ErrorCode.PROTOCOL_ERROR, "a frame of a stream on stream 0");
  }

  #onConnection(streamId: number): void {
    if (streamId !== 0) throw new WireError(ErrorCode.PROTOCOL_ERROR, "a frame of the connection on a stream");
  }

  #sized(length: number, right: boolean): void {
    if (!right) throw new WireError(ErrorCode.FRAME_SIZE_ERROR, `a frame of its type cannot have ${length} bytes`);
  }
}

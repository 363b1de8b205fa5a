import type { Socket } from "node:net";
import { unreachable } from "#kernel/invariant.ts";
import { NumberMap } from "#kernel/number-map.ts";
import { ReceiveWindow, maxWindowBytes } from "#kernel/wire/flow.ts";
import { Flag, FrameReader, type FrameSink, FrameType } from "#kernel/wire/frame.ts";
import { FrameGuard } from "#kernel/wire/frame-guard.ts";
import { FrameWriter } from "#kernel/wire/frame-writer.ts";
import { HeaderAssembler } from "#kernel/wire/header-assembler.ts";
import type { HeaderList } from "#kernel/wire/header-list.ts";
import { type Bound, type WireLimits, initialWindowBytes } from "#kernel/wire/limits.ts";
import { readSettings } from "#kernel/wire/settings-frame.ts";
import type { Stream, StreamHost } from "#kernel/wire/stream.ts";
import { ClosedStreams, type Closing } from "#kernel/wire/stream-state.ts";
import type { Sweepable, Wire } from "#kernel/wire/wire.ts";
import { ErrorCode, WireError } from "#kernel/wire/wire-error.ts";

type Phase =
  /** Until the peer's SETTINGS came. */
  | { readonly kind: "handshake"; readonly sinceMs: number }
  | { readonly kind: "open" }
  /** GOAWAY was sent; open streams go on. `announced`: the peer may not know yet, so new streams are still served. */
  | { readonly kind: "draining"; readonly step: "announced" | "final"; readonly sinceMs: number }
  /** All is over but the last bytes, which the peer may take until the linger timeout. */
  | { readonly kind: "closing"; readonly sinceMs: number; readonly end: ConnectionEnd }
  | { readonly kind: "closed" };

/** Why a connection ended. `code` is one of `ErrorCode`; NO_ERROR when nothing was wrong. */
export interface ConnectionEnd {
  readonly code: number;
  readonly reason: string;
}

/** Payload of the PING whose answer says that the peer saw the first GOAWAY of a drain. */
const drainPing = Buffer.from("hm-drain", "latin1");
/** Of PINGs whose answers somebody waits for; they come in the order of the questions. */
const probePing = Buffer.from("hm-probe", "latin1");
const keepAlivePing = Buffer.from("hm-alive", "latin1");
/** For that answer. */
const drainPingTimeoutMs = 1_000;

/** RFC 9113 for either side: frames in, stream events out. What only a server or only a client does is in those. */
export abstract class Connection implements FrameSink, StreamHost, Sweepable {
  readonly limits: WireLimits;
  sendWindow = initialWindowBytes;
  /** DATA and HEADERS that the guard has not been told of, and how many of them no window cut short. */
  #sentFrames = 0;
  #wholeFrames = 0;
  /** Read once per batch of bytes: exact enough for rates and timeouts. */
  nowMs: number;
  abstract readonly stopsRequests: boolean;
  readonly writer: FrameWriter;
  protected readonly wire: Wire;
  protected readonly streams = new NumberMap<Stream>();
  protected readonly closedStreams = new ClosedStreams();
  protected peerInitialWindow = initialWindowBytes;
  /** Highest stream that the peer opened and we looked at. */
  protected lastPeerStreamId = 0;
  #phase: Phase;
  readonly #socket: Socket;
  readonly #reader: FrameReader;
  readonly #headers: HeaderAssembler;
  readonly #guard: FrameGuard;
  readonly #receiveWindow: ReceiveWindow;
  readonly #waiting = new Set<Stream>();
  #waitingBytes = 0;
  readonly #onClose: (end: ConnectionEnd) => void;
  /** Of the DATA frame being read; undefined when its stream is gone. */
  #dataStream: Stream | undefined;
  #dataLength = 0;
  #settingsSentMs: number | undefined;
  #receivedMs: number;
  #pingSentMs: number | undefined;
  #idleSinceMs: number;
  readonly #probes: (() => void)[] = [];

  constructor(wire: Wire, socket: Socket, onClose: (end: ConnectionEnd) => void) {
    const { limits } = wire;
    this.wire = wire;
    this.limits = limits;
    this.nowMs = wire.clock.monotonicMs();
    this.#phase = { kind: "handshake", sinceMs: this.nowMs };
    this.#receivedMs = this.nowMs;
    this.#idleSinceMs = this.nowMs;
    this.#socket = socket;
    this.#onClose = onClose;
    this.writer = new FrameWriter(socket, {
      clock: wire.clock,
      budget: wire.budget,
      maxUnsentBytes: limits.maxUnsentBytes * 2,
      onSent: () => this.#pumpAll(),
      onOverflow: () => {
        this.reached("maxUnsentBytes");
        this.destroy(ErrorCode.ENHANCE_YOUR_CALM, "the peer does not read what it asks for");
      },
    });
    this.#guard = new FrameGuard(limits, wire.reached, this.nowMs);
    this.#reader = new FrameReader(this);
    this.#headers = new HeaderAssembler(limits);
    this.#receiveWindow = new ReceiveWindow(limits.connectionWindowBytes);
    wire.add(this);
    socket.on("error", (error) => this.destroy(ErrorCode.CONNECT_ERROR, `the socket failed: ${error.message}`));
    socket.on("end", () => this.destroy(ErrorCode.NO_ERROR, "the peer closed the connection"));
    socket.on("close", () => this.destroy(ErrorCode.NO_ERROR, "the socket was closed"));
  }

  /** True until a GOAWAY of either side, or the end. */
  get open(): boolean {
    return this.#phase.kind === "open";
  }

  get openStreams(): number {
    return this.streams.size;
  }

  /** Waiting at streams, or framed and unsent. */
  get bufferedBytes(): number {
    return this.#waitingBytes + this.writer.unsent;
  }

  /** Lets open streams end, tells the peer to open no more (RFC 9113, 6.8), and then closes. */
  drain(): void {
    if (this.#phase.kind === "handshake") {
      this.writer.goaway(0, ErrorCode.NO_ERROR, "draining");
      return this.#close(drained);
    }
    if (this.#phase.kind !== "open") return;
    this.#phase = { kind: "draining", step: "announced", sinceMs: this.wire.clock.monotonicMs() };
    this.writer.goaway(0x7fff_ffff, ErrorCode.NO_ERROR, "draining");
    this.writer.ping(drainPing, 0);
  }

  /** Cuts the connection now; nothing more is sent. */
  destroy(code: number = ErrorCode.NO_ERROR, reason = "cut"): void {
    if (this.#phase.kind === "closed") return;
    const end = this.#phase.kind === "closing" ? this.#phase.end : { code, reason };
    this.#phase = { kind: "closed" };
    this.wire.remove(this);
    this.#loseStreams(end.reason);
    this.writer.discard();
    this.#socket.destroy();
    this.#onClose(end);
  }

  // Reading

  /** Bytes of the socket; they may be overwritten after the call. */
  protected receive(bytes: Buffer, start: number, end: number): void {
    if (this.stopped) return;
    this.nowMs = this.wire.clock.monotonicMs();
    this.#receivedMs = this.nowMs;
    this.#pingSentMs = undefined;
    try {
      this.#reader.read(bytes, start, end);
    } catch (error) {
      if (error instanceof WireError) return this.fail(error);
      this.fail(new WireError(ErrorCode.INTERNAL_ERROR, "internal error", { cause: error }));
      throw error;
    }
  }

  /** RFC 9113, 5.4.1: GOAWAY with the reason, then the end. */
  protected fail(error: WireError): void {
    if (this.stopped) return;
    this.writer.goaway(this.lastPeerStreamId, error.code, error.message);
    this.#close({ code: error.code, reason: error.message });
  }

  get stopped(): boolean {
    return this.#phase.kind === "closing" || this.#phase.kind === "closed";
  }

  frameStarts(type: number, flags: number, streamId: number, length: number): void {
    this.#headers.checkOrder(type, streamId);
    if (this.#phase.kind === "handshake" && (type !== FrameType.SETTINGS || flags & Flag.ACK)) {
      throw protocolError("the first frame is not SETTINGS");
    }
    if (type === FrameType.RST_STREAM && this.#isIdle(streamId)) throw protocolError("RST_STREAM on an idle stream");
    this.#guard.earn(this.#sentFrames, this.#wholeFrames);
    this.#sentFrames = this.#wholeFrames = 0;
    this.#guard.check(type, flags, streamId, length, this.nowMs);
  }

  frame(type: number, flags: number, streamId: number, bytes: Buffer, start: number, end: number): void {
    switch (type) {
      case FrameType.HEADERS:
        return this.#onSection(this.#headers.start(flags, streamId, bytes, start, end, this.nowMs));
      case FrameType.CONTINUATION:
        return this.#onSection(this.#headers.proceed(flags, bytes, start, end));
      case FrameType.PRIORITY:
        return this.#onPriority(streamId, bytes, start, end);
      case FrameType.RST_STREAM:
        return this.streams.get(streamId)?.receiveReset(bytes.readUInt32BE(start));
      case FrameType.SETTINGS:
        return this.#onSettings(flags, bytes, start, end);
      case FrameType.PING:
        return this.#onPing(flags, bytes, start);
      case FrameType.GOAWAY:
        return this.onGoaway(bytes.readUInt32BE(start) & 0x7fff_ffff, bytes.readUInt32BE(start + 4));
      case FrameType.WINDOW_UPDATE:
        return this.#onWindowUpdate(streamId, bytes.readUInt32BE(start) & 0x7fff_ffff);
      default:
    }
  }

  dataStarts(_flags: number, streamId: number, length: number): void {
    this.#headers.checkOrder(FrameType.DATA, streamId);
    if (this.#phase.kind === "handshake") throw protocolError("the first frame is not SETTINGS");
    if (this.#isIdle(streamId)) throw protocolError("DATA on an idle stream");
    if (!this.#receiveWindow.receive(length)) {
      throw new WireError(ErrorCode.FLOW_CONTROL_ERROR, "DATA exceeds the window of the connection");
    }
    this.#dataLength = length;
    this.#dataStream = this.#dataTarget(streamId, length);
    // Nobody will consume it.
    if (!this.#dataStream) this.consumed(length);
  }

  /** The stream that takes a DATA frame, after every check on it. */
  #dataTarget(streamId: number, length: number): Stream | undefined {
    const stream = this.streams.get(streamId);
    if (!stream) {
      // RFC 9113, 5.1: what was under way when we reset a stream is ignored.
      if (this.closedStreams.get(streamId) !== "reset by us") this.refuse(streamId, ErrorCode.STREAM_CLOSED);
      return undefined;
    }
    const fault = !stream.state.receives
      ? ErrorCode.STREAM_CLOSED
      : !stream.headersReceived
        ? ErrorCode.PROTOCOL_ERROR
        : stream.receive(length)
          ? undefined
          : ErrorCode.FLOW_CONTROL_ERROR;
    if (fault === undefined) return stream;
    this.#guard.spend("resets", this.nowMs);
    stream.fail(fault, "DATA that the stream does not allow");
    return undefined;
  }

  data(bytes: Buffer, start: number, end: number): void {
    if (this.#dataStream?.state.receives) this.#dataStream.receiveData(bytes, start, end);
  }

  dataEnds(flags: number, _streamId: number, padding: number): void {
    const ends = (flags & Flag.END_STREAM) !== 0;
    if (!ends && this.#dataLength - padding < 5) this.#guard.spend("emptyFrames", this.nowMs);
    const stream = this.#dataStream;
    this.#dataStream = undefined;
    if (!stream) return;
    if (padding > 0) stream.consumed(padding);
    if (ends) stream.receiveEnd(undefined);
  }

  #onSection(section: ReturnType<HeaderAssembler["proceed"]>): void {
    if (!section) return;
    if (section.list.excess) this.reached(section.list.excess);
    this.onHeaderList(section.streamId, section.list, section.end);
  }

  /** One complete header section. */
  protected abstract onHeaderList(streamId: number, list: HeaderList, end: boolean): void;

  /** Trailers, or what else comes behind the headers of a stream that we know. */
  protected onTrailers(stream: Stream, fault: string | undefined, list: HeaderList, end: boolean): void {
    const code = !stream.state.receives
      ? ErrorCode.STREAM_CLOSED
      : list.excess
        ? ErrorCode.ENHANCE_YOUR_CALM
        : fault !== undefined || !end
          ? ErrorCode.PROTOCOL_ERROR
          : undefined;
    if (code === undefined) return stream.receiveEnd(list);
    this.#guard.spend("resets", this.nowMs);
    stream.fail(code, fault ?? "HEADERS that the stream does not allow");
  }

  /** An interim response (1xx): nothing to tell anyone. */
  protected onInterim(): void {
    this.#guard.spend("emptyFrames", this.nowMs);
  }

  /** RST_STREAM for a stream that has no object, at the peer's expense. */
  protected refuse(streamId: number, code: number): void {
    this.#guard.spend("resets", this.nowMs);
    this.closedStreams.add(streamId, "reset by us");
    this.writer.reset(streamId, code);
  }

  /** RFC 9113, 5.3.2: priorities are deprecated and ignored; only their form is checked. */
  #onPriority(streamId: number, bytes: Buffer, start: number, end: number): void {
    const sized = end - start === 5;
    if (sized && (bytes.readUInt32BE(start) & 0x7fff_ffff) !== streamId) return;
    const code = sized ? ErrorCode.PROTOCOL_ERROR : ErrorCode.FRAME_SIZE_ERROR;
    const stream = this.streams.get(streamId);
    this.#guard.spend("resets", this.nowMs);
    if (stream) stream.fail(code, "a malformed PRIORITY");
    else this.writer.reset(streamId, code);
  }

  #onSettings(flags: number, bytes: Buffer, start: number, end: number): void {
    if (flags & Flag.ACK) {
      this.#settingsSentMs = undefined;
      return;
    }
    const settings = readSettings(bytes, start, end, this.stopsRequests ? "client" : "server");
    if (settings.initialWindowBytes !== undefined) {
      // RFC 9113, 6.9.2: the change applies to open streams too, and may leave them in debt.
      const change = settings.initialWindowBytes - this.peerInitialWindow;
      this.peerInitialWindow = settings.initialWindowBytes;
      for (const stream of this.streams.values()) {
        if (!stream.widen(change)) throw new WireError(ErrorCode.FLOW_CONTROL_ERROR, "SETTINGS overflow a window");
      }
    }
    this.writer.settingsAck(settings.headerTableBytes);
    if (this.#phase.kind === "handshake") this.#phase = { kind: "open" };
    this.onPeerSettings(settings.maxConcurrentStreams);
    this.#pumpAll();
  }

  protected onPeerSettings(_maxConcurrentStreams: number | undefined): void {}

  #onPing(flags: number, bytes: Buffer, start: number): void {
    if (!(flags & Flag.ACK)) return this.writer.ping(bytes.subarray(start, start + 8), Flag.ACK);
    if (bytes.compare(probePing, 0, 8, start, start + 8) === 0) return this.#probes.shift()?.();
    if (this.#phase.kind !== "draining" || bytes.compare(drainPing, 0, 8, start, start + 8) !== 0) return;
    this.#finishDrain();
  }

  ping(onAnswer: () => void): void {
    if (this.stopped) return;
    this.#probes.push(onAnswer);
    this.writer.ping(probePing, 0);
  }

  protected onGoaway(_lastStreamId: number, _code: number): void {}

  #onWindowUpdate(streamId: number, increment: number): void {
    if (streamId === 0) {
      if (increment === 0) throw protocolError("WINDOW_UPDATE of 0");
      this.sendWindow += increment;
      if (this.sendWindow > maxWindowBytes) {
        throw new WireError(ErrorCode.FLOW_CONTROL_ERROR, "WINDOW_UPDATE overflows the window of the connection");
      }
      return this.#pumpAll();
    }
    if (this.#isIdle(streamId)) throw protocolError("WINDOW_UPDATE on an idle stream");
    const stream = this.streams.get(streamId);
    if (!stream) return;
    if (increment > 0 && stream.widen(increment)) {
      if (stream.waitingBytes > 0) stream.pump(Infinity);
      return;
    }
    this.#guard.spend("resets", this.nowMs);
    stream.fail(increment === 0 ? ErrorCode.PROTOCOL_ERROR : ErrorCode.FLOW_CONTROL_ERROR, "a bad WINDOW_UPDATE");
  }

  #isIdle(streamId: number): boolean {
    return streamId === 0 || this.isIdle(streamId);
  }

  /** RFC 9113, 5.1: no HEADERS have opened it, nor any with a higher number. */
  protected abstract isIdle(streamId: number): boolean;

  // Writing

  get hasRoom(): boolean {
    return this.writer.unsent < this.limits.maxUnsentBytes;
  }

  sent(stream: Stream): void {
    this.#sentFrames += 1;
    if (stream.sendWindow > 0 && this.sendWindow > 0) this.#wholeFrames += 1;
  }

  consumed(bytes: number): void {
    const increment = this.#receiveWindow.consume(bytes);
    if (increment > 0 && !this.stopped) this.writer.windowUpdate(0, increment);
  }

  /** Our preface; `settings` on top of those that both sides send. */
  protected start(preface: Uint8Array, settings: readonly (readonly [id: number, value: number])[]): void {
    this.writer.preface(preface, settings);
    // RFC 9113, 6.9.2: the window of a connection only grows by WINDOW_UPDATE.
    const extra = this.limits.connectionWindowBytes - initialWindowBytes;
    if (extra > 0) this.writer.windowUpdate(0, extra);
    this.#settingsSentMs = this.nowMs;
  }

  fullBound(stream: Stream): Bound | undefined {
    const { limits } = this;
    if (stream.waitingBytes >= limits.maxStreamWaitingBytes) return "maxStreamWaitingBytes";
    if (this.bufferedBytes >= limits.maxBufferedBytes) return "maxBufferedBytes";
    return this.wire.budget.usedBytes >= limits.maxGlobalBufferedBytes ? "maxGlobalBufferedBytes" : undefined;
  }

  reached(bound: Bound): void {
    this.wire.reached(bound);
  }

  waitingChanged(stream: Stream, byBytes: number): void {
    this.#waitingBytes += byBytes;
    this.wire.budget.usedBytes += byBytes;
    if (byBytes < 0) this.#waiting.delete(stream);
    if (stream.waitingBytes > 0) this.#waiting.add(stream);
    this.writer.isWanted = this.#waiting.size > 0;
  }

  /** Streams take turns, a frame each: one that sent goes to the back of `#waiting`, so this meets it again. */
  #pumpAll(): void {
    for (const stream of this.#waiting) {
      if (!this.hasRoom || this.sendWindow <= 0) return;
      stream.pump(1);
    }
  }

  // Ending

  closed(stream: Stream, closing: Closing): void {
    if (closing === "ended") this.#guard.earnReset();
    this.streams.delete(stream.id);
    this.closedStreams.add(stream.id, closing);
    if (this.streams.size > 0) return;
    this.#idleSinceMs = this.nowMs;
    this.onIdle();
    if (this.#phase.kind === "draining" && this.#phase.step === "final") this.#close(drained);
  }

  protected onIdle(): void {}

  #finishDrain(): void {
    if (this.#phase.kind !== "draining" || this.#phase.step === "final") return;
    this.#phase = { ...this.#phase, step: "final" };
    this.writer.goaway(this.lastPeerStreamId, ErrorCode.NO_ERROR, "drained");
    if (this.streams.size === 0) this.#close(drained);
  }

  /** The second GOAWAY of a drain is out: streams that the peer opens now are not looked at. */
  protected get refusesStreams(): boolean {
    return this.#phase.kind === "draining" && this.#phase.step === "final";
  }

  /** Sends what is left and closes; what still comes is dropped, so that no TCP reset destroys our last words. */
  #close(end: ConnectionEnd): void {
    this.#phase = { kind: "closing", sinceMs: this.wire.clock.monotonicMs(), end };
    this.#loseStreams(end.reason);
    this.writer.finish();
  }

  protected closeWhenIdle(end: ConnectionEnd): void {
    if (!this.stopped && this.streams.size === 0) this.#close(end);
  }

  #loseStreams(reason: string): void {
    for (const stream of this.streams.values()) stream.lose(reason, false);
  }

  /** Timeouts. */
  sweep(nowMs: number): void {
    this.nowMs = nowMs;
    const { limits } = this;
    const phase = this.#phase;
    switch (phase.kind) {
      case "handshake":
        if (nowMs - phase.sinceMs >= limits.handshakeTimeoutMs) this.#timeOut("handshakeTimeoutMs");
        return;
      case "closing":
        if (nowMs - phase.sinceMs >= limits.lingerTimeoutMs) this.destroy();
        return;
      case "draining":
        if (nowMs - phase.sinceMs >= drainPingTimeoutMs) this.#finishDrain();
        break;
      case "open":
        if (this.streams.size === 0 && nowMs - this.#idleSinceMs >= limits.idleTimeoutMs) this.drain();
        break;
      case "closed":
        return;
      default:
        unreachable(phase);
    }
    const { openSinceMs } = this.#headers;
    if (openSinceMs !== undefined && nowMs - openSinceMs >= limits.headersTimeoutMs) this.#timeOut("headersTimeoutMs");
    if (this.#settingsSentMs !== undefined && nowMs - this.#settingsSentMs >= limits.handshakeTimeoutMs) {
      this.#timeOut("handshakeTimeoutMs", ErrorCode.SETTINGS_TIMEOUT);
    }
    this.#sweepStalled(nowMs);
    this.#keepAlive(nowMs);
  }

  #sweepStalled(nowMs: number): void {
    if (this.writer.busy && nowMs - this.writer.busySinceMs >= this.limits.stallTimeoutMs) {
      this.reached("stallTimeoutMs");
      return this.destroy(ErrorCode.ENHANCE_YOUR_CALM, "the peer stopped reading");
    }
    for (const stream of this.#waiting) {
      if (nowMs - stream.stalledSinceMs < this.limits.stallTimeoutMs) continue;
      this.reached("stallTimeoutMs");
      stream.fail(ErrorCode.CANCEL, "the peer opened no window for too long");
    }
  }

  #keepAlive(nowMs: number): void {
    if (this.stopped) return;
    if (this.#pingSentMs !== undefined) {
      if (nowMs - this.#pingSentMs < this.limits.keepAliveTimeoutMs) return;
      this.reached("keepAliveTimeoutMs");
      this.destroy(ErrorCode.CONNECT_ERROR, "the peer did not answer a PING");
    } else if (nowMs - this.#receivedMs >= this.limits.keepAliveIntervalMs) {
      this.#pingSentMs = nowMs;
      this.writer.ping(keepAlivePing, 0);
    }
  }

  #timeOut(bound: Bound, code: number = ErrorCode.ENHANCE_YOUR_CALM): void {
    this.reached(bound);
    this.fail(new WireError(code, `too slow (${bound})`));
  }
}

const drained: ConnectionEnd = { code: ErrorCode.NO_ERROR, reason: "drained" };

function protocolError(message: string): WireError {
  return new WireError(ErrorCode.PROTOCOL_ERROR, message);
}

import type { ByteBuffer } from "#kernel/wire/byte-buffer.ts";
import { ErrorCode, WireError } from "#kernel/wire/wire-error.ts";

/** RFC 9113, 6. */
export const FrameType = {
  DATA: 0x0,
  HEADERS: 0x1,
  PRIORITY: 0x2,
  RST_STREAM: 0x3,
  SETTINGS: 0x4,
  PUSH_PROMISE: 0x5,
  PING: 0x6,
  GOAWAY: 0x7,
  WINDOW_UPDATE: 0x8,
  CONTINUATION: 0x9,
} as const;

export const Flag = { ACK: 0x1, END_STREAM: 0x1, END_HEADERS: 0x4, PADDED: 0x8, PRIORITY: 0x20 } as const;

/** RFC 9113, 4.1. */
export const frameHeaderBytes = 9;

/** RFC 9113, 4.2: the size that every peer takes and the largest that ours is allowed to send. */
export const maxFrameBytes = 16_384;

/** RFC 9113, 3.4. */
export const clientPreface = Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "latin1");

/** Appends a frame header; the caller appends `length` bytes of payload. Room for both is made here. */
export function appendFrameHeader(
  out: ByteBuffer,
  type: number,
  flags: number,
  streamId: number,
  length: number,
): void {
  out.reserve(frameHeaderBytes + length);
  const { bytes, end } = out;
  bytes[end] = length >>> 16;
  bytes[end + 1] = length >>> 8;
  bytes[end + 2] = length;
  bytes[end + 3] = type;
  bytes[end + 4] = flags;
  bytes[end + 5] = streamId >>> 24;
  bytes[end + 6] = streamId >>> 16;
  bytes[end + 7] = streamId >>> 8;
  bytes[end + 8] = streamId;
  out.end = end + frameHeaderBytes;
}

/**
 * Compressed flag and big-endian length: Length-Prefixed-Message of
 * https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md.
 */
export const messageHeaderBytes = 5;

/** Of an uncompressed gRPC message of `length` bytes; makes room for both. */
export function appendMessageHeader(out: ByteBuffer, length: number): void {
  out.reserve(messageHeaderBytes + length);
  const { bytes, end } = out;
  bytes[end] = 0;
  bytes[end + 1] = length >>> 24;
  bytes[end + 2] = length >>> 16;
  bytes[end + 3] = length >>> 8;
  bytes[end + 4] = length;
  out.end = end + messageHeaderBytes;
}

export function appendUint32(out: ByteBuffer, value: number): void {
  out.reserve(4);
  out.bytes.writeUInt32BE(value, out.end);
  out.end += 4;
}

/** RST_STREAM and WINDOW_UPDATE: one 32-bit value. */
export function appendValueFrame(out: ByteBuffer, type: number, streamId: number, value: number): void {
  appendFrameHeader(out, type, 0, streamId, 4);
  appendUint32(out, value);
}

/** What a `FrameReader` drives. Each may throw a `WireError`, which ends the connection. */
export interface FrameSink {
  /** True: the rest of what was read is not looked at. */
  readonly stopped: boolean;
  /** A header of any frame but DATA, before its payload is waited for. */
  frameStarts(type: number, flags: number, streamId: number, length: number): void;
  /** A whole frame that is not DATA. The bytes are valid during the call only. */
  frame(type: number, flags: number, streamId: number, bytes: Buffer, start: number, end: number): void;
  /** `length` counts against flow control and includes padding. */
  dataStarts(flags: number, streamId: number, length: number): void;
  /** Some of the DATA, in order, as it arrives: never held back for the end of its frame. */
  data(bytes: Buffer, start: number, end: number): void;
  /** `padding` is what flow control counted and no `data` brought. */
  dataEnds(flags: number, streamId: number, padding: number): void;
}

type DataProgress = "none" | "pad length" | "payload" | "padding";

const nothing = Buffer.alloc(0);

/** Cuts a byte stream into frames, however it was split. Holds at most one frame, and of DATA nothing. */
export class FrameReader {
  readonly #sink: FrameSink;
  /** Start of a frame whose end has not arrived, header included. */
  #stash = nothing;
  #stashed = 0;
  /** Of the stashed frame with its header; 0 while the header itself is incomplete. */
  #needed = 0;
  #progress: DataProgress = "none";
  #flags = 0;
  #streamId = 0;
  #left = 0;
  #padding = 0;
  /** Padding counted for flow control: with the byte that tells its length. */
  #paid = 0;

  constructor(sink: FrameSink) {
    this.#sink = sink;
  }

  read(bytes: Buffer, start: number, end: number): void {
    let at = start;
    while (at < end && !this.#sink.stopped) {
      if (this.#progress !== "none") at = this.#readData(bytes, at, end);
      else if (this.#stashed > 0) at = this.#readStashed(bytes, at, end);
      else at = this.#readFrame(bytes, at, end);
    }
  }

  #readFrame(bytes: Buffer, at: number, end: number): number {
    if (end - at < frameHeaderBytes) return this.#keep(bytes, at, end, frameHeaderBytes);
    const length = this.#header(bytes, at);
    const payload = at + frameHeaderBytes;
    if (bytes[at + 3] === FrameType.DATA) return this.#readData(bytes, payload, end);
    if (end - payload < length) {
      this.#needed = frameHeaderBytes + length;
      return this.#keep(bytes, at, end, this.#needed);
    }
    this.#whole(bytes, at, payload + length);
    return payload + length;
  }

  #readStashed(bytes: Buffer, at: number, end: number): number {
    const needed = this.#needed === 0 ? frameHeaderBytes : this.#needed;
    const next = this.#keep(bytes, at, Math.min(end, at + needed - this.#stashed), needed);
    if (this.#stashed < needed) return next;
    if (this.#needed === 0) {
      const length = this.#header(this.#stash, 0);
      if (this.#stash[3] === FrameType.DATA) {
        this.#stashed = 0;
        return this.#readData(bytes, next, end);
      }
      this.#needed = needed + length;
      if (length > 0) return next;
    }
    const whole = this.#stash;
    this.#stash = nothing;
    this.#stashed = 0;
    this.#needed = 0;
    this.#whole(whole, 0, needed);
    return next;
  }

  #keep(bytes: Buffer, at: number, end: number, capacity: number): number {
    if (this.#stash.length < capacity) {
      const grown = Buffer.allocUnsafe(capacity);
      this.#stash.copy(grown, 0, 0, this.#stashed);
      this.#stash = grown;
    }
    bytes.copy(this.#stash, this.#stashed, at, end);
    this.#stashed += end - at;
    return end;
  }

  /** Judges a frame by its header, and returns the length of its payload. */
  #header(bytes: Buffer, at: number): number {
    const length = bytes.readUIntBE(at, 3);
    const type = bytes[at + 3] as number;
    const flags = bytes[at + 4] as number;
    const streamId = bytes.readUInt32BE(at + 5) & 0x7fff_ffff;
    if (length > maxFrameBytes) {
      throw new WireError(ErrorCode.FRAME_SIZE_ERROR, `a frame of ${length} bytes exceeds ${maxFrameBytes}`);
    }
    if (type !== FrameType.DATA) {
      this.#sink.frameStarts(type, flags, streamId, length);
      return length;
    }
    const padded = (flags & Flag.PADDED) !== 0;
    // RFC 9113, 6.1: the pad length byte must be there.
    if (padded && length === 0) throw new WireError(ErrorCode.FRAME_SIZE_ERROR, "padded DATA without a pad length");
    this.#sink.dataStarts(flags, streamId, length);
    this.#flags = flags;
    this.#streamId = streamId;
    this.#left = padded ? length - 1 : length;
    this.#padding = 0;
    this.#paid = 0;
    this.#progress = padded ? "pad length" : "payload";
    return length;
  }

  #whole(bytes: Buffer, at: number, end: number): void {
    const streamId = bytes.readUInt32BE(at + 5) & 0x7fff_ffff;
    this.#sink.frame(bytes[at + 3] as number, bytes[at + 4] as number, streamId, bytes, at + frameHeaderBytes, end);
  }

  #readData(bytes: Buffer, start: number, end: number): number {
    let at = start;
    if (this.#progress === "pad length") {
      if (at === end) return at;
      const padding = bytes[at] as number;
      if (padding > this.#left) throw new WireError(ErrorCode.PROTOCOL_ERROR, "DATA padding exceeds its frame");
      this.#padding = padding;
      this.#paid = padding + 1;
      this.#left -= padding;
      this.#progress = "payload";
      at += 1;
    }
    if (this.#progress === "payload") {
      const next = Math.min(end, at + this.#left);
      this.#left -= next - at;
      if (next > at) this.#sink.data(bytes, at, next);
      at = next;
      if (this.#left > 0) return at;
      this.#progress = "padding";
    }
    const next = Math.min(end, at + this.#padding);
    this.#padding -= next - at;
    if (this.#padding > 0) return next;
    this.#progress = "none";
    this.#sink.dataEnds(this.#flags, this.#streamId, this.#paid);
    return next;
  }
}

import { copyBytes } from "#kernel/wire/byte-buffer.ts";
import {
  Flag,
  FrameType,
  appendFrameHeader,
  appendMessageHeader,
  appendUint32,
  appendValueFrame,
  frameHeaderBytes,
  maxFrameBytes,
  messageHeaderBytes,
} from "#kernel/wire/frame.ts";
import { type HeaderBlock, type HeaderFields, HpackEncoder } from "#kernel/wire/hpack-encoder.ts";
import { Outlet } from "#kernel/wire/outlet.ts";
import { appendSettings } from "#kernel/wire/settings-frame.ts";

/** A connection's outlet for frames, in the order in which they will leave. */
export class FrameWriter extends Outlet {
  readonly #encoder = new HpackEncoder();
  /** Where the last DATA frame in the outlet begins, and the flush that will take it. */
  #lastDataId = 0;
  #lastDataAt = 0;
  #lastDataFlush = -1;

  /** At most `maxFrameBytes`. */
  data(streamId: number, flags: number, bytes: Uint8Array, start: number, end: number): void {
    this.#dataHeader(flags, streamId, end - start);
    copyBytes(bytes, start, end, this.bytes, this.end);
    this.end += end - start;
    this.touch();
  }

  /** An uncompressed gRPC message: at most `maxFrameBytes` with its header. */
  message(streamId: number, bytes: Uint8Array, start: number, end: number): void {
    this.#dataHeader(0, streamId, messageHeaderBytes + end - start);
    appendMessageHeader(this, end - start);
    copyBytes(bytes, start, end, this.bytes, this.end);
    this.end += end - start;
    this.touch();
  }

  #dataHeader(flags: number, streamId: number, length: number): void {
    const { flushes } = this;
    this.#lastDataId = streamId;
    this.#lastDataAt = this.end;
    this.#lastDataFlush = flushes;
    appendFrameHeader(this, FrameType.DATA, flags, streamId, length);
  }

  /** Sets END_STREAM on the last DATA frame if it is of this stream and has not left yet. */
  endInPlace(streamId: number): boolean {
    const { flushes } = this;
    if (this.#lastDataId !== streamId || this.#lastDataFlush !== flushes || this.length === 0) return false;
    const flagsAt = this.#lastDataAt + 4;
    this.bytes[flagsAt] = (this.bytes[flagsAt] as number) | Flag.END_STREAM;
    return true;
  }

  /** Throws a TypeError, with nothing appended, for a field that HTTP/2 forbids. */
  headers(streamId: number, fields: HeaderFields | HeaderBlock, flags: number): void {
    const from = this.end - this.start;
    appendFrameHeader(this, FrameType.HEADERS, flags | Flag.END_HEADERS, streamId, 0);
    try {
      this.#encoder.encode(fields, this);
    } catch (error) {
      this.end = this.start + from;
      throw error;
    }
    const at = this.start + from;
    const length = this.end - at - frameHeaderBytes;
    if (length <= maxFrameBytes) this.bytes.writeUIntBE(length, at, 3);
    else this.#splitBlock(streamId, flags, at);
    this.touch();
  }

  /** RFC 9113, 6.10: rewrites an oversized HEADERS frame with the CONTINUATION frames it needs. */
  #splitBlock(streamId: number, flags: number, from: number): void {
    const block = Buffer.from(this.bytes.subarray(from + frameHeaderBytes, this.end));
    this.end = from;
    for (let at = 0; at < block.length; at += maxFrameBytes) {
      const end = Math.min(block.length, at + maxFrameBytes);
      const endFlag = end === block.length ? Flag.END_HEADERS : 0;
      const type = at === 0 ? FrameType.HEADERS : FrameType.CONTINUATION;
      appendFrameHeader(this, type, (at === 0 ? flags : 0) | endFlag, streamId, end - at);
      this.append(block, at, end);
    }
  }

  reset(streamId: number, code: number): void {
    appendValueFrame(this, FrameType.RST_STREAM, streamId, code);
    this.touch();
  }

  windowUpdate(streamId: number, increment: number): void {
    appendValueFrame(this, FrameType.WINDOW_UPDATE, streamId, increment);
    this.touch();
  }

  preface(bytes: Uint8Array, settings: readonly (readonly [id: number, value: number])[]): void {
    this.append(bytes, 0, bytes.length);
    appendSettings(this, settings);
    this.touch();
  }

  /** Acknowledges the peer's SETTINGS, whose table size holds from here (RFC 7541, 4.2). */
  settingsAck(headerTableBytes: number | undefined): void {
    if (headerTableBytes !== undefined) this.#encoder.setPeerLimit(headerTableBytes);
    appendFrameHeader(this, FrameType.SETTINGS, Flag.ACK, 0, 0);
    this.touch();
  }

  goaway(lastStreamId: number, code: number, reason: string): void {
    appendFrameHeader(this, FrameType.GOAWAY, 0, 0, 8 + reason.length);
    appendUint32(this, lastStreamId);
    appendUint32(this, code);
    this.end += this.bytes.write(reason, this.end, "latin1");
    this.touch();
  }

  ping(payload: Uint8Array, flags: number): void {
    appendFrameHeader(this, FrameType.PING, flags, 0, 8);
    this.append(payload, 0, 8);
    this.touch();
  }
}

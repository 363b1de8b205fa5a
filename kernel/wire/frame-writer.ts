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
import type { Outlet } from "#kernel/wire/outlet.ts";
import { appendSettings } from "#kernel/wire/settings-frame.ts";

/** Puts frames into a connection's outlet, in the order in which they will leave. */
export class FrameWriter {
  readonly #outlet: Outlet;
  readonly #encoder = new HpackEncoder();
  /** Where the last DATA frame in the outlet begins, and the flush that will take it. */
  #lastDataId = 0;
  #lastDataAt = 0;
  #lastDataFlush = -1;

  constructor(outlet: Outlet) {
    this.#outlet = outlet;
  }

  /** At most `maxFrameBytes`. */
  data(streamId: number, flags: number, bytes: Uint8Array, start: number, end: number): void {
    const { out } = this.#outlet;
    this.#dataHeader(flags, streamId, end - start);
    copyBytes(bytes, start, end, out.bytes, out.end);
    out.end += end - start;
    this.#outlet.touch();
  }

  /** An uncompressed gRPC message: at most `maxFrameBytes` with its header. */
  message(streamId: number, bytes: Uint8Array, start: number, end: number): void {
    const { out } = this.#outlet;
    this.#dataHeader(0, streamId, messageHeaderBytes + end - start);
    appendMessageHeader(out, end - start);
    copyBytes(bytes, start, end, out.bytes, out.end);
    out.end += end - start;
    this.#outlet.touch();
  }

  #dataHeader(flags: number, streamId: number, length: number): void {
    const { out, flushes } = this.#outlet;
    this.#lastDataId = streamId;
    this.#lastDataAt = out.end;
    this.#lastDataFlush = flushes;
    appendFrameHeader(out, FrameType.DATA, flags, streamId, length);
  }

  /** Sets END_STREAM on the last DATA frame if it is of this stream and has not left yet. */
  endInPlace(streamId: number): boolean {
    const { out, flushes } = this.#outlet;
    if (this.#lastDataId !== streamId || this.#lastDataFlush !== flushes || out.length === 0) return false;
    const flagsAt = this.#lastDataAt + 4;
    out.bytes[flagsAt] = (out.bytes[flagsAt] as number) | Flag.END_STREAM;
    return true;
  }

  /** Throws a TypeError, with nothing appended, for a field that HTTP/2 forbids. */
  headers(streamId: number, fields: HeaderFields | HeaderBlock, flags: number): void {
    const { out } = this.#outlet;
    const from = out.end - out.start;
    appendFrameHeader(out, FrameType.HEADERS, flags | Flag.END_HEADERS, streamId, 0);
    try {
      this.#encoder.encode(fields, out);
    } catch (error) {
      out.end = out.start + from;
      throw error;
    }
    const at = out.start + from;
    const length = out.end - at - frameHeaderBytes;
    if (length <= maxFrameBytes) out.bytes.writeUIntBE(length, at, 3);
    else this.#splitBlock(streamId, flags, at);
    this.#outlet.touch();
  }

  /** RFC 9113, 6.10: rewrites an oversized HEADERS frame with the CONTINUATION frames it needs. */
  #splitBlock(streamId: number, flags: number, from: number): void {
    const { out } = this.#outlet;
    const block = Buffer.from(out.bytes.subarray(from + frameHeaderBytes, out.end));
    out.end = from;
    for (let at = 0; at < block.length; at += maxFrameBytes) {
      const end = Math.min(block.length, at + maxFrameBytes);
      const endFlag = end === block.length ? Flag.END_HEADERS : 0;
      const type = at === 0 ? FrameType.HEADERS : FrameType.CONTINUATION;
      appendFrameHeader(out, type, (at === 0 ? flags : 0) | endFlag, streamId, end - at);
      out.append(block, at, end);
    }
  }

  reset(streamId: number, code: number): void {
    appendValueFrame(this.#outlet.out, FrameType.RST_STREAM, streamId, code);
    this.#outlet.touch();
  }

  windowUpdate(streamId: number, increment: number): void {
    appendValueFrame(this.#outlet.out, FrameType.WINDOW_UPDATE, streamId, increment);
    this.#outlet.touch();
  }

  preface(bytes: Uint8Array, settings: readonly (readonly [id: number, value: number])[]): void {
    this.#outlet.out.append(bytes, 0, bytes.length);
    appendSettings(this.#outlet.out, settings);
    this.#outlet.touch();
  }

  /** Acknowledges the peer's SETTINGS, whose table size holds from here (RFC 7541, 4.2). */
  settingsAck(headerTableBytes: number | undefined): void {
    if (headerTableBytes !== undefined) this.#encoder.setPeerLimit(headerTableBytes);
    appendFrameHeader(this.#outlet.out, FrameType.SETTINGS, Flag.ACK, 0, 0);
    this.#outlet.touch();
  }

  goaway(lastStreamId: number, code: number, reason: string): void {
    const { out } = this.#outlet;
    appendFrameHeader(out, FrameType.GOAWAY, 0, 0, 8 + reason.length);
    appendUint32(out, lastStreamId);
    appendUint32(out, code);
    out.end += out.bytes.write(reason, out.end, "latin1");
    this.#outlet.touch();
  }

  ping(payload: Uint8Array, flags: number): void {
    const { out } = this.#outlet;
    appendFrameHeader(out, FrameType.PING, flags, 0, 8);
    out.append(payload, 0, 8);
    this.#outlet.touch();
  }
}

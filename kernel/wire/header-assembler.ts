import { Flag, FrameType } from "#kernel/wire/frame.ts";
import type { HeaderList } from "#kernel/wire/header-list.ts";
import { HpackDecoder } from "#kernel/wire/hpack-decoder.ts";
import type { WireLimits } from "#kernel/wire/limits.ts";
import { ErrorCode, WireError } from "#kernel/wire/wire-error.ts";

/** A header section that has come to its end. */
interface HeaderSection {
  readonly streamId: number;
  readonly list: HeaderList;
  /** END_STREAM was set. */
  readonly end: boolean;
}

interface OpenBlock {
  readonly streamId: number;
  readonly end: boolean;
  readonly selfDependent: boolean;
  readonly sinceMs: number;
}

/** Makes header sections of HEADERS and CONTINUATION frames (RFC 9113, 4.3 and 6.10), decoding as they come. */
export class HeaderAssembler {
  readonly #decoder: HpackDecoder;
  #block: OpenBlock | undefined;

  constructor(limits: WireLimits) {
    this.#decoder = new HpackDecoder(limits);
  }

  /** When the header block began whose end has not come, if there is one. */
  get openSinceMs(): number | undefined {
    return this.#block?.sinceMs;
  }

  /** Throws unless a frame may come now: nothing else comes between the frames of a header block. */
  checkOrder(type: number, streamId: number): void {
    const block = this.#block;
    const continues = type === FrameType.CONTINUATION;
    if (block ? !continues || streamId !== block.streamId : continues) {
      throw new WireError(ErrorCode.PROTOCOL_ERROR, "a header block is open, or CONTINUATION where none is");
    }
  }

  /** HEADERS (RFC 9113, 6.2). Undefined while its block goes on. */
  start(
    flags: number,
    streamId: number,
    bytes: Buffer,
    start: number,
    end: number,
    nowMs: number,
  ): HeaderSection | undefined {
    let from = start;
    let padding = 0;
    let selfDependent = false;
    if (flags & Flag.PADDED) {
      if (from >= end) throw tooShort();
      padding = bytes[from++] as number;
    }
    if (flags & Flag.PRIORITY) {
      if (end - from < 5) throw tooShort();
      selfDependent = (bytes.readUInt32BE(from) & 0x7fff_ffff) === streamId;
      from += 5;
    }
    if (padding > end - from) throw new WireError(ErrorCode.PROTOCOL_ERROR, "HEADERS padding exceeds its frame");
    this.#block = { streamId, end: (flags & Flag.END_STREAM) !== 0, selfDependent, sinceMs: nowMs };
    return this.proceed(flags, bytes, from, end - padding);
  }

  /** CONTINUATION, and the fragment of HEADERS. */
  proceed(flags: number, bytes: Buffer, start: number, end: number): HeaderSection | undefined {
    this.#decoder.decode(bytes, start, end);
    const block = this.#block;
    if (!block || !(flags & Flag.END_HEADERS)) return undefined;
    this.#block = undefined;
    const list = this.#decoder.finish();
    // RFC 7540, 5.3.1: still an error, though priorities are gone.
    if (block.selfDependent) list.fault ??= "a stream that depends on itself";
    return { streamId: block.streamId, list, end: block.end };
  }
}

function tooShort(): WireError {
  return new WireError(ErrorCode.FRAME_SIZE_ERROR, "HEADERS without room for what its flags announce");
}

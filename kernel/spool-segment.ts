import { crc32 } from "node:zlib";

/** Length (u32 LE) and CRC-32 (u32 LE, over the length and the payload) before each payload. */
export const frameHeaderBytes = 8;

/** Writes the payload's frame to `into`, which has room, at `offset`; returns where the frame ends. */
export function encodeFrame(payload: Uint8Array, into: Buffer, offset: number): number {
  const start = offset + frameHeaderBytes;
  into.writeUInt32LE(payload.length, offset);
  into.set(payload, start);
  into.writeUInt32LE(frameCrc(payload), offset + 4);
  return start + payload.length;
}

/** Covers the length too: eight zero bytes, as a crash leaves them in a file, are then no valid empty frame. */
function frameCrc(payload: Uint8Array): number {
  lengthBytes.writeUInt32LE(payload.length);
  return crc32(payload, crc32(lengthBytes));
}

const lengthBytes = Buffer.alloc(4);

export interface Frame {
  readonly payload: Uint8Array;
  /** Offset of the byte after it. */
  readonly end: number;
}

/** The frame at `offset` of whole frames that this process made. */
export function frameAt(bytes: Buffer, offset: number): Frame {
  const start = offset + frameHeaderBytes;
  const end = start + bytes.readUInt32LE(offset);
  return { payload: bytes.subarray(start, end), end };
}

/** The frame at `offset`, or undefined where none is whole and intact. */
export function decodeFrame(bytes: Buffer, offset: number): Frame | undefined {
  if (bytes.length - offset < frameHeaderBytes) return undefined;
  const start = offset + frameHeaderBytes;
  const end = start + bytes.readUInt32LE(offset);
  if (end > bytes.length) return undefined;
  const payload = bytes.subarray(start, end);
  const intact = bytes.readUInt32LE(offset + 4) === frameCrc(payload);
  return intact ? { payload, end } : undefined;
}

/** How many frames stand at `offset` one after the other, and where the first byte that is none lies. */
export function scanFrames(bytes: Buffer, offset = 0): { readonly count: number; readonly end: number } {
  let count = 0;
  let end = offset;
  for (let frame = decodeFrame(bytes, end); frame; frame = decodeFrame(bytes, end)) {
    count++;
    end = frame.end;
  }
  return { count, end };
}

/** Names sort in the order of their numbers. */
export function segmentName(number: number): string {
  return `${String(number).padStart(16, "0")}.segment`;
}

export function segmentNumber(name: string): number | undefined {
  const match = /^([0-9]{16})\.segment$/.exec(name);
  return match ? Number(match[1]) : undefined;
}

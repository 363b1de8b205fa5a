import type { FileHandle } from "node:fs/promises";
import { decodeFrame } from "#kernel/spool-segment.ts";

/** Holds a usual batch; a backlog is then read once, and not from its start for every batch. */
const windowBytes = 1 << 20;

/** Of a segment file, bytes; from a frame's start to a frame's end. */
export interface Range {
  readonly start: number;
  readonly end: number;
}

/**
 * Adds at most `max` records of a segment file to `into`, from the frame at `range.start` on.
 * @returns the offset of the first frame not read.
 */
export async function readRecords(file: FileHandle, range: Range, max: number, into: Uint8Array[]): Promise<number> {
  let offset = range.start;
  let left = max;
  let size = windowBytes;
  while (left > 0 && offset < range.end) {
    const window = Buffer.alloc(Math.min(size, range.end - offset));
    const { bytesRead } = await file.read(window, 0, window.length, offset);
    let at = 0;
    for (let frame = decodeFrame(window, at); frame && left > 0; frame = decodeFrame(window, at)) {
      into.push(frame.payload);
      at = frame.end;
      left--;
    }
    // No whole frame in all there is: somebody else changed the file.
    if (at === 0 && (size >= range.end - offset || bytesRead < window.length)) break;
    if (at === 0) size *= 2;
    offset += at;
  }
  return offset;
}

import { open } from "node:fs/promises";
import { decodeFrame } from "#kernel/spool-segment.ts";

/** Holds a usual batch; a backlog is then read once, and not from its start for every batch. */
const windowBytes = 1 << 20;

/**
 * Adds at most `max` records of a segment file to `into`, from the frame at `range.start` on.
 * @returns the offset of the first frame not read.
 */
export async function readRecords(
  path: string,
  range: { readonly start: number; readonly end: number },
  max: number,
  into: Uint8Array[],
): Promise<number> {
  const file = await open(path, "r");
  try {
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
  } finally {
    await file.close();
  }
}

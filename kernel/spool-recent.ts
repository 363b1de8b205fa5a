import { frameAt } from "#kernel/spool-segment.ts";

/** Several batches of usual records. */
const mostBytes = 1 << 20;

/** Frames as they stand in a segment file, from `start` on. */
interface Chunk {
  readonly segment: number;
  readonly start: number;
  readonly end: number;
  readonly bytes: Buffer;
}

/** What was written last, kept so that whoever keeps up with the writing need not read it back. The oldest go first. */
export class RecentRecords {
  #chunks: Chunk[] = [];
  #bytes = 0;

  /** Whole frames, which now stand at `start`; they are copied. */
  add(segment: number, start: number, frames: Buffer): void {
    this.#chunks.push({ segment, start, end: start + frames.length, bytes: Buffer.from(frames) });
    this.#bytes += frames.length;
    while (this.#bytes > mostBytes) this.#dropOldest();
  }

  /**
   * Adds at most `max` records to `into`, from the frame at `offset` on.
   * @returns the offset of the first frame not read; `offset` itself when it is not here.
   */
  read(segment: number, offset: number, max: number, into: Uint8Array[]): number {
    let at = offset;
    let left = max;
    for (const chunk of this.#chunks) {
      if (chunk.segment !== segment || at < chunk.start) continue;
      for (; left > 0 && at < chunk.end; left--) {
        const { payload, end } = frameAt(chunk.bytes, at - chunk.start);
        into.push(payload);
        at = chunk.start + end;
      }
    }
    return at;
  }

  /** What lies before it is read no more. */
  forgetBefore(segment: number, offset: number): void {
    for (let first = this.#chunks[0]; first; first = this.#chunks[0]) {
      if (first.segment > segment || (first.segment === segment && first.end > offset)) return;
      this.#dropOldest();
    }
  }

  #dropOldest(): void {
    this.#bytes -= this.#chunks.shift()?.bytes.length ?? 0;
  }
}

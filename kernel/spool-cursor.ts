import { constants } from "node:fs";
import { type FileHandle, open, readFile } from "node:fs/promises";
import { join } from "node:path";
import type { Logger } from "#kernel/log.ts";
import { decodeFrame, encodeFrame, frameHeaderBytes } from "#kernel/spool-segment.ts";

/** Everything before it is committed. */
export interface SpoolCursor {
  readonly segment: number;
  readonly offset: number;
}

const cursorName = "cursor";
const payloadBytes = 16;
/** Where a position may stand: written in turn, and far enough apart that a torn page spoils one of them. */
const slots = [0, 4_096] as const;
/** A write is on the disk when it ends. */
const inPlace = constants.O_WRONLY | constants.O_CREAT | constants.O_DSYNC;

/**
 * The position in its file, which stays open: moving it is one write in place, where a new file renamed over the old one
 * would be eight trips to the disk's threads, and as many wake-ups of the process. A crash leaves the last position or
 * the one before.
 */
export class CursorFile {
  readonly #dir: string;
  #at: SpoolCursor;
  #slot: 0 | 1;
  #file: FileHandle | undefined;

  private constructor(dir: string, at: SpoolCursor, slot: 0 | 1) {
    this.#dir = dir;
    this.#at = at;
    this.#slot = slot;
  }

  /** Without a readable position everything kept is given again: twice is allowed, never is not. */
  static async read(dir: string, logger: Logger): Promise<CursorFile> {
    const start = { segment: 0, offset: 0 };
    let bytes: Buffer;
    try {
      bytes = await readFile(join(dir, cursorName));
    } catch (error) {
      if (error instanceof Error && "code" in error && error.code === "ENOENT") return new CursorFile(dir, start, 1);
      throw error;
    }
    const [first, second] = slots.map((offset) => decodePosition(bytes, offset));
    if (!first && !second) logger.warn("spool: the cursor is damaged; records may be sent again", { dir });
    return second && (!first || isBefore(first, second))
      ? new CursorFile(dir, second, 1)
      : new CursorFile(dir, first ?? start, 0);
  }

  get at(): SpoolCursor {
    return this.#at;
  }

  /** Resolves when the new position is on the disk; rejects when the disk refuses, and the position is the old one. */
  async move(to: SpoolCursor): Promise<void> {
    const slot = this.#slot === 0 ? 1 : 0;
    const frame = encodePosition(to);
    this.#file ??= await this.#open();
    try {
      await this.#file.write(frame, 0, frame.length, slots[slot]);
    } catch (error) {
      await this.close();
      throw error;
    }
    this.#slot = slot;
    this.#at = to;
  }

  async close(): Promise<void> {
    const file = this.#file;
    this.#file = undefined;
    await file?.close();
  }

  async #open(): Promise<FileHandle> {
    const file = await open(join(this.#dir, cursorName), inPlace, 0o600);
    await syncDirectory(this.#dir);
    return file;
  }
}

function encodePosition({ segment, offset }: SpoolCursor): Buffer {
  const payload = Buffer.alloc(payloadBytes);
  payload.writeBigUInt64LE(BigInt(segment), 0);
  payload.writeBigUInt64LE(BigInt(offset), 8);
  const frame = Buffer.alloc(frameHeaderBytes + payloadBytes);
  encodeFrame(payload, frame, 0);
  return frame;
}

function decodePosition(bytes: Buffer, at: number): SpoolCursor | undefined {
  const payload = decodeFrame(bytes, at)?.payload;
  if (payload?.length !== payloadBytes) return undefined;
  const view = new DataView(payload.buffer, payload.byteOffset, payload.length);
  return { segment: Number(view.getBigUint64(0, true)), offset: Number(view.getBigUint64(8, true)) };
}

function isBefore(one: SpoolCursor, other: SpoolCursor): boolean {
  return one.segment < other.segment || (one.segment === other.segment && one.offset < other.offset);
}

/** A new file is durable only once its directory is. */
export async function syncDirectory(dir: string): Promise<void> {
  const handle = await open(dir, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

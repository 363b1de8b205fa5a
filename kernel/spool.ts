import { constants } from "node:fs";
import { type FileHandle, open, readFile, readdir, truncate, unlink } from "node:fs/promises";
import { join } from "node:path";
import { systemClock } from "#kernel/clock.ts";
import { invariant } from "#kernel/invariant.ts";
import type { Logger } from "#kernel/log.ts";
import { readRecords } from "#kernel/spool-reader.ts";
import { RecentRecords } from "#kernel/spool-recent.ts";
import { CursorFile, type SpoolCursor, syncDirectory } from "#kernel/spool-cursor.ts";
import { encodeFrame, frameHeaderBytes, scanFrames, segmentName, segmentNumber } from "#kernel/spool-segment.ts";
import { takeLockFile } from "#kernel/lock-file.ts";
import { makeFolder } from "#kernel/make-folder.ts";

export interface SpoolOptions {
  /** Made if missing; one spool at a time has it, by its file `lock`. */
  readonly dir: string;
  /** Of all records not yet committed, with 8 bytes each for framing. */
  readonly maxBytes: number;
  /** A file is closed once it has grown to this, and deleted once all of it is committed. */
  readonly segmentBytes: number;
  readonly logger: Logger;
}

export interface SpoolBatch {
  readonly records: Uint8Array[];
  /** Forgets these records for good. Until then, and after a crash, `peek` gives them again. */
  commit(): Promise<void>;
}

/** A queue on disk, first in first out, at least once: what was flushed survives a crash at any byte. */
export interface Spool {
  /** Written and fsynced within `gatherMs`, with its neighbours. Dropped, with a call of `onFull`, when there is no room. */
  append(record: Uint8Array): void;
  /** Resolves when everything appended so far is on the disk; rejects when the disk refuses. */
  flush(): Promise<void>;
  /** The oldest records, at most `max`, flushed first; the same ones until they are committed. */
  peek(max: number): Promise<SpoolBatch>;
  /** Not yet committed. */
  size(): { readonly records: number; readonly bytes: number };
  /** `listener` gets each record that found no room. */
  onFull(listener: (dropped: Uint8Array) => void): void;
  close(): Promise<void>;
}

/**
 * What comes within this time shares a write and an fsync, which cost more than all else that is done for a record. A
 * process that is killed loses what it gathered, no more; the other end of the call has a report of its own.
 */
const gatherMs = 50;
/** A write is on the disk when it ends (open(2), O_DSYNC): one trip to the disk's thread instead of two with an fdatasync. */
const newSegment = constants.O_RDWR | constants.O_APPEND | constants.O_CREAT | constants.O_EXCL | constants.O_DSYNC;
const leastPendingBytes = 16_384;
/** Kept between writes; larger memory goes back after one. */
const keptPendingBytes = 1_048_576;

interface Segment {
  readonly number: number;
  /** Bytes known to hold whole frames on the disk; a tail behind them is never read. */
  bytes: number;
  records: number;
}

/** Throws when another process has the folder; one that was killed with it does not count. */
export async function openSpool(options: SpoolOptions): Promise<Spool> {
  const { dir } = options;
  await makeFolder(dir, 0o700);
  const lock = await takeLockFile(join(dir, "lock"));
  if (lock.kind === "held") {
    throw new Error(
      `Process ${lock.pid} already uses the spool in ${dir}. Stop it, or give this one another state folder (--state-dir).`,
    );
  }
  try {
    const spool = new DiskSpool(options, await CursorFile.read(dir, options.logger), lock.release);
    await spool.recover();
    return spool;
  } catch (error) {
    await lock.release();
    throw error;
  }
}

class DiskSpool implements Spool {
  readonly #options: SpoolOptions;
  readonly #cursor: CursorFile;
  readonly #release: () => Promise<void>;
  readonly #listeners: ((dropped: Uint8Array) => void)[] = [];
  /** Oldest first; the last is the one written to, as long as `#file` is open. */
  #segments: Segment[] = [];
  readonly #recent = new RecentRecords();
  #nextNumber = 1;
  #file: FileHandle | undefined;
  /** Frames that are not on the disk, one behind the other in memory that is used again. */
  #pending = Buffer.alloc(0);
  #pendingBytes = 0;
  #pendingRecords = 0;
  #records = 0;
  #bytes = 0;
  /** One disk action at a time, in order; never rejects. */
  #turn: Promise<void> = Promise.resolve();
  #writeScheduled = false;
  #closed = false;

  /** `release` gives the folder back, once nothing more is written. */
  constructor(options: SpoolOptions, cursor: CursorFile, release: () => Promise<void>) {
    this.#options = options;
    this.#cursor = cursor;
    this.#release = release;
  }

  async recover(): Promise<void> {
    const { dir, logger } = this.#options;
    const cursor = this.#cursor.at;
    const numbers = (await readdir(dir)).map(segmentNumber).filter((number) => number !== undefined);
    for (const number of numbers.sort((a, b) => a - b)) {
      this.#nextNumber = Math.max(this.#nextNumber, number + 1);
      const path = join(dir, segmentName(number));
      if (number < cursor.segment) {
        await unlink(path);
        continue;
      }
      const bytes = await readFile(path);
      const start = number === cursor.segment ? cursor.offset : 0;
      const { count, end } = scanFrames(bytes, Math.min(start, bytes.length));
      if (end < bytes.length) {
        logger.warn("spool: cut a torn tail", { segment: path, keptBytes: end, cutBytes: bytes.length - end });
        await truncate(path, end);
      }
      this.#segments.push({ number, bytes: end, records: count });
      this.#records += count;
      this.#bytes += end - Math.min(start, end);
    }
    // A new process writes a new segment, so that a recovered one is never touched again.
    this.#nextNumber = Math.max(this.#nextNumber, cursor.segment + 1);
    await this.#forgetBefore(cursor);
  }

  append(record: Uint8Array): void {
    invariant(!this.#closed, "append to a closed spool");
    const bytes = frameHeaderBytes + record.length;
    if (this.#bytes + bytes > this.#options.maxBytes) {
      for (const listener of this.#listeners) listener(record);
      return;
    }
    this.#records++;
    this.#bytes += bytes;
    this.#reserve(bytes);
    this.#pendingBytes = encodeFrame(record, this.#pending, this.#pendingBytes);
    this.#pendingRecords++;
    if (this.#writeScheduled) return;
    this.#writeScheduled = true;
    systemClock.setTimer(gatherMs, () => {
      this.flush().catch((error: unknown) => {
        this.#options.logger.error("spool: cannot write; records wait in memory", {
          dir: this.#options.dir,
          waiting: this.#pendingRecords,
          error,
        });
      });
    });
  }

  flush(): Promise<void> {
    return this.#inTurn(() => this.#writePending());
  }

  peek(max: number): Promise<SpoolBatch> {
    return this.#inTurn(async () => {
      await this.#writePending();
      const records: Uint8Array[] = [];
      const start = this.#cursor.at;
      let end = start;
      for (const segment of this.#segments) {
        if (segment.number < end.segment) continue;
        if (records.length >= max) break;
        const start = segment.number === end.segment ? end.offset : 0;
        end = { segment: segment.number, offset: await this.#read(segment, start, max, records) };
      }
      const { length } = records;
      return { records, commit: () => this.#inTurn(() => this.#commit(start, end, length)) };
    });
  }

  size(): { readonly records: number; readonly bytes: number } {
    return { records: this.#records, bytes: this.#bytes };
  }

  onFull(listener: (dropped: Uint8Array) => void): void {
    this.#listeners.push(listener);
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#inTurn(async () => {
      try {
        await this.#writePending();
      } finally {
        await this.#file?.close();
        this.#file = undefined;
        await this.#cursor.close();
        await this.#release();
      }
    });
  }

  #inTurn<T>(action: () => Promise<T>): Promise<T> {
    const result = this.#turn.then(action);
    this.#turn = result.then(
      () => {},
      () => {}, // The caller has the rejection; the next turn starts all the same.
    );
    return result;
  }

  #reserve(bytes: number): void {
    const needed = this.#pendingBytes + bytes;
    if (needed <= this.#pending.length) return;
    const grown = Buffer.allocUnsafeSlow(Math.max(needed, this.#pending.length * 2, leastPendingBytes));
    this.#pending.copy(grown, 0, 0, this.#pendingBytes);
    this.#pending = grown;
  }

  async #writePending(): Promise<void> {
    // What comes from here on is behind what this write takes, and wants another one.
    this.#writeScheduled = false;
    if (this.#pendingRecords === 0) return;
    let segment = this.#segments.at(-1);
    if (this.#file && segment && segment.bytes >= this.#options.segmentBytes) {
      await this.#file.close();
      this.#file = undefined;
    }
    if (!this.#file || !segment) {
      const number = this.#nextNumber++;
      this.#file = await open(this.#path(number), newSegment, 0o600);
      await syncDirectory(this.#options.dir);
      segment = { number, bytes: 0, records: 0 };
      this.#segments.push(segment);
    }
    // Appends during the write go behind these bytes, or to larger memory.
    const records = this.#pendingRecords;
    const batch = this.#pending.subarray(0, this.#pendingBytes);
    try {
      for (let at = 0; at < batch.length;) at += (await this.#file.write(batch, at)).bytesWritten;
    } catch (error) {
      // How much of the batch is down is unknown, so the segment ends before it and the batch goes to a new one.
      const failed = this.#file;
      this.#file = undefined;
      await failed.truncate(segment.bytes).catch(() => {}); // The tail is never read while this process lives.
      await failed.close().catch(() => {}); // Nothing more can be done with a descriptor that fails.
      throw error;
    }
    this.#recent.add(segment.number, segment.bytes, batch);
    segment.bytes += batch.length;
    segment.records += records;
    this.#pending.copy(this.#pending, 0, batch.length, this.#pendingBytes);
    this.#pendingBytes -= batch.length;
    this.#pendingRecords -= records;
    if (this.#pendingBytes === 0 && this.#pending.length > keptPendingBytes) this.#pending = Buffer.alloc(0);
  }

  /** As readRecords, until `into` has `max`; through the open file where it is the one being written. */
  async #read(segment: Segment, offset: number, max: number, into: Uint8Array[]): Promise<number> {
    const { number, bytes: end } = segment;
    const start = this.#recent.read(number, offset, max - into.length, into);
    if (start === end || into.length >= max) return start;
    const range = { start, end };
    const left = max - into.length;
    if (this.#file && segment === this.#segments.at(-1)) return readRecords(this.#file, range, left, into);
    const file = await open(this.#path(number), "r");
    try {
      return await readRecords(file, range, left, into);
    } finally {
      await file.close();
    }
  }

  async #commit(start: SpoolCursor, end: SpoolCursor, records: number): Promise<void> {
    const { segment, offset } = this.#cursor.at;
    if (start.segment !== segment || start.offset !== offset) return; // Committed before.
    if (records === 0) return;
    let bytes = 0;
    for (const { number, bytes: length } of this.#segments) {
      if (number > end.segment) break;
      bytes += (number === end.segment ? end.offset : length) - (number === start.segment ? start.offset : 0);
    }
    await this.#cursor.move(end);
    this.#recent.forgetBefore(end.segment, end.offset);
    this.#records -= records;
    this.#bytes -= bytes;
    await this.#forgetBefore(end);
  }

  /** Deletes the segments that lie wholly before the cursor, except the one being written. */
  async #forgetBefore(cursor: SpoolCursor): Promise<void> {
    const writing = this.#file ? this.#segments.at(-1) : undefined;
    const kept: Segment[] = [];
    for (const segment of this.#segments) {
      const done = segment.number < cursor.segment;
      const full = segment.number === cursor.segment && cursor.offset >= segment.bytes;
      if (segment !== writing && (done || full)) await unlink(this.#path(segment.number));
      else kept.push(segment);
    }
    this.#segments = kept;
  }

  #path(number: number): string {
    return join(this.#options.dir, segmentName(number));
  }
}

import { open, readFile, rename } from "node:fs/promises";
import { join } from "node:path";
import type { Logger } from "#kernel/log.ts";
import { decodeFrame, encodeFrame, frameHeaderBytes } from "#kernel/spool-segment.ts";

/** Everything before it is committed. */
export interface SpoolCursor {
  readonly segment: number;
  readonly offset: number;
}

const cursorName = "cursor";
const cursorBytes = 16;

/** Without a readable cursor everything kept is given again: twice is allowed, never is not. */
export async function readCursor(dir: string, logger: Logger): Promise<SpoolCursor> {
  let bytes: Buffer;
  try {
    bytes = await readFile(join(dir, cursorName));
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return { segment: 0, offset: 0 };
    throw error;
  }
  const payload = decodeFrame(bytes, 0)?.payload;
  if (payload?.length !== cursorBytes) {
    logger.warn("spool: the cursor is damaged; records may be sent again", { dir });
    return { segment: 0, offset: 0 };
  }
  const view = new DataView(payload.buffer, payload.byteOffset, payload.length);
  return { segment: Number(view.getBigUint64(0, true)), offset: Number(view.getBigUint64(8, true)) };
}

/** Written beside and renamed over, so that a crash leaves the old one or the new one. */
export async function writeCursor(dir: string, { segment, offset }: SpoolCursor): Promise<void> {
  const view = new DataView(new ArrayBuffer(cursorBytes));
  view.setBigUint64(0, BigInt(segment), true);
  view.setBigUint64(8, BigInt(offset), true);
  const path = join(dir, cursorName);
  const file = await open(`${path}.new`, "w", 0o600);
  try {
    const frame = Buffer.alloc(frameHeaderBytes + view.byteLength);
    encodeFrame(new Uint8Array(view.buffer), frame, 0);
    await file.writeFile(frame);
    await file.datasync();
  } finally {
    await file.close();
  }
  await rename(`${path}.new`, path);
  await syncDirectory(dir);
}

/** A new or renamed file is durable only once its directory is. */
export async function syncDirectory(dir: string): Promise<void> {
  const handle = await open(dir, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

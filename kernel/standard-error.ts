import { writeSync } from "node:fs";
import { pino } from "pino";

/** Characters after which lines leave before the turn's end. */
const mostPending = 65_536;
/** How often a full pipe is tried again, a millisecond apart, before what does not fit is given up. */
const mostRetries = 1_000;

/**
 * Where pino's lines go: those of one event-loop turn leave in one write, because at thousands of calls a second a write
 * for each is most of what logging costs. Warnings and errors, with all before them, are out before the logger returns:
 * one may explain the end of the process.
 */
export function standardError(): pino.DestinationStream {
  const warning = pino.levels.values["warn"] ?? 40;
  let pending = "";
  let scheduled = false;
  function flush(): void {
    const text = pending;
    pending = "";
    if (text !== "") writeAll(text);
  }
  process.on("exit", flush);
  const destination = {
    // Asks pino to set `lastLevel` before each line.
    [Symbol.for("pino.metadata")]: true,
    lastLevel: 0,
    write(line: string): void {
      pending += line;
      if (destination.lastLevel >= warning || pending.length >= mostPending) return flush();
      if (scheduled) return;
      scheduled = true;
      setImmediate(() => {
        scheduled = false;
        flush();
      });
    },
  };
  return destination;
}

function writeAll(text: string): void {
  let bytes: Uint8Array = Buffer.from(text);
  for (let tries = 0; bytes.length > 0 && tries < mostRetries;) {
    try {
      bytes = bytes.subarray(writeSync(2, bytes));
    } catch (error) {
      // Whoever reads the pipe is slow (EAGAIN), or gone: then there is nobody left to tell.
      if (!(error instanceof Error && "code" in error && error.code === "EAGAIN")) return;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1);
      tries++;
    }
  }
}

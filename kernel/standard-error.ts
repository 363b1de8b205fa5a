import { writeSync } from "node:fs";

/** Characters after which lines leave before the turn's end. */
const mostPending = 65_536;
/** How often a full pipe is tried again, a millisecond apart, before what does not fit is given up. */
const mostRetries = 1_000;

/**
 * Where log lines go: those of one event-loop turn leave in one write, because at thousands of calls a second a write
 * for each is most of what logging costs. An urgent one, with all before it, is out before this returns: it may explain
 * the end of the process.
 */
export function standardError(): (line: string, urgent: boolean) => void {
  let pending = "";
  let scheduled = false;
  function flush(): void {
    const text = pending;
    pending = "";
    if (text !== "") writeAll(text);
  }
  process.on("exit", flush);
  return (line, urgent) => {
    pending += line;
    if (urgent || pending.length >= mostPending) return flush();
    if (scheduled) return;
    scheduled = true;
    setImmediate(() => {
      scheduled = false;
      flush();
    });
  };
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

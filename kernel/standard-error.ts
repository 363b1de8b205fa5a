import { writeSync } from "node:fs";

/** Characters that wait for the turn's end; what comes then sends them away at once. */
const mostPending = 65_536;
/** UTF-8 of one unit of UTF-16. */
const mostUnitBytes = 3;
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
  const memory = Buffer.allocUnsafeSlow(mostPending * mostUnitBytes);
  function flush(): void {
    const text = pending;
    pending = "";
    if (text === "") return;
    if (text.length > mostPending) writeAll(Buffer.from(text));
    else writeAll(memory.subarray(0, memory.write(text)));
  }
  process.on("exit", flush);
  return (line, urgent) => {
    if (pending.length + line.length > mostPending) flush();
    pending += line;
    if (urgent) return flush();
    if (scheduled) return;
    scheduled = true;
    setImmediate(() => {
      scheduled = false;
      flush();
    });
  };
}

function writeAll(bytes: Uint8Array): void {
  let at = 0;
  for (let tries = 0; at < bytes.length && tries < mostRetries;) {
    try {
      at += writeSync(2, bytes, at);
    } catch (error) {
      // Whoever reads the pipe is slow (EAGAIN), or gone: then there is nobody left to tell.
      if (!(error instanceof Error && "code" in error && error.code === "EAGAIN")) return;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1);
      tries++;
    }
  }
}

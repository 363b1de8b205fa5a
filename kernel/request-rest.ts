import { systemClock } from "#kernel/clock.ts";
import type { NodeServerRequest } from "#kernel/node-handler.ts";

/** A client that goes on sending may do so for this long and this much before it is answered nevertheless. */
const longestMs = 5_000;
const mostBytes = 64 * 1024 * 1024;
/** A client that pauses has no more to send, or waits for the answer. */
const pauseMs = 250;
/** What clients hold unsent and still read an answer: those on node:http2 reset the stream from 10 MB on. */
const heldBytes = 8 * 1024 * 1024;

/**
 * For a request that is refused as too large: reads and forgets what still comes, before the answer is sent. Over
 * HTTP/1.1 there is nothing to wait for. Never rejects.
 */
export async function forgetRest(request: NodeServerRequest): Promise<void> {
  const isSmall = Number(request.headers["content-length"] ?? Number.POSITIVE_INFINITY) <= heldBytes;
  // A client that asked with `expect` sends nothing when it is refused.
  const isUnsent = request.headers.expect !== undefined;
  if (request.complete || request.httpVersion !== "2.0" || isSmall || isUnsent) return;
  await new Promise<void>((resolve) => {
    let bytes = 0;
    let seen = 0;
    let timer = systemClock.setTimer(pauseMs, look);
    const end = systemClock.setTimer(longestMs, done);
    function look(): void {
      if (bytes === seen) return done();
      seen = bytes;
      timer = systemClock.setTimer(pauseMs, look);
    }
    function onData(chunk: Buffer): void {
      bytes += chunk.length;
      if (bytes > mostBytes) done();
    }
    function done(): void {
      timer.cancel();
      end.cancel();
      request.off("data", onData).off("end", done).off("close", done).pause();
      resolve();
    }
    request.on("data", onData).on("end", done).on("close", done).resume();
  });
}

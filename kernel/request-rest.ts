import { type Timer, systemClock } from "#kernel/clock.ts";
import type { NodeServerRequest } from "#kernel/node-handler.ts";

/** What a client may go on sending of a request that is refused. */
const longestMs = 5_000;
const mostBytes = 64 * 1024 * 1024;
/** A client that pauses has no more to send, or waits for the answer. */
const pauseMs = 250;
/** What clients hold unsent and still read an answer: those on node:http2 reset the stream from 10 MB on. */
const heldBytes = 8 * 1024 * 1024;

/** What still comes of a request that is answered before its end: read and forgotten before the answer is sent. */
export class RequestRest {
  readonly #onOver: () => void;
  readonly #end: Timer;
  #pause: Timer;
  #bytes = 0;
  #seen = 0;

  /** `onOver` is called once: the rest has come, the client pauses, or it has sent enough. */
  constructor(onOver: () => void) {
    this.#onOver = onOver;
    this.#end = systemClock.setTimer(longestMs, () => this.over());
    this.#pause = systemClock.setTimer(pauseMs, () => this.#look());
  }

  heard(bytes: number): void {
    this.#bytes += bytes;
    if (this.#bytes > mostBytes) this.over();
  }

  over(): void {
    this.stop();
    this.#onOver();
  }

  /** The client is gone. */
  stop(): void {
    this.#end.cancel();
    this.#pause.cancel();
  }

  #look(): void {
    if (this.#bytes === this.#seen) return this.over();
    this.#seen = this.#bytes;
    this.#pause = systemClock.setTimer(pauseMs, () => this.#look());
  }
}

/** For requests of node:http and of `wire-exchange`; over HTTP/1.1 there is nothing to wait for. Never rejects. */
export async function forgetRest(request: NodeServerRequest): Promise<void> {
  const isSmall = Number(request.headers["content-length"] ?? Number.POSITIVE_INFINITY) <= heldBytes;
  // A client that asked with `expect` sends nothing when it is refused.
  const isUnsent = request.headers.expect !== undefined;
  if (request.complete || request.httpVersion !== "2.0" || isSmall || isUnsent) return;
  await new Promise<void>((resolve) => {
    const rest = new RequestRest(() => {
      request.off("data", onData).off("end", done).off("close", done).pause();
      resolve();
    });
    const onData = (chunk: Buffer): void => rest.heard(chunk.length);
    const done = (): void => rest.over();
    request.on("data", onData).on("end", done).on("close", done).resume();
  });
}

/**
 * For a request over HTTP/1.1 that was answered before its end: reads and forgets the rest, or else a client that sends
 * all before it reads would never see the answer, and no other request would come through its connection. Node does so
 * only where nobody has begun to read. A client that does not stop has its connection cut. HTTP/2 needs none of it.
 */
export function dropRest(request: NodeServerRequest): void {
  if (request.readableEnded || request.destroyed || request.httpVersion === "2.0") return;
  let bytes = 0;
  const end = systemClock.setTimer(longestMs, () => request.destroy(), { unref: true });
  request.on("data", (chunk: Buffer) => {
    bytes += chunk.length;
    if (bytes > mostBytes) request.destroy();
  });
  request.once("close", () => end.cancel());
  request.resume();
}

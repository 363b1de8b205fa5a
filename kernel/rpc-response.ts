import { createContextKey } from "@connectrpc/connect";
import type { UniversalServerResponse } from "@connectrpc/connect/protocol";
import { systemClock } from "#kernel/clock.ts";
import type { NodeServerResponse } from "#kernel/node-handler.ts";

/** Of a HandlerContext: ends the response of a client that does not read, which no status reaches. See `destroy` of `NodeServerResponse`. */
export const cutResponse = createContextKey<() => void>(() => {});

export interface SendOptions {
  /** How long a peer may leave what was sent unread. */
  readonly stallTimeoutMs: number;
  readonly onStall: () => void;
  /** Runs when the answer is known, and holds it back. */
  readonly beforeHeaders?: () => Promise<void> | undefined;
}

/**
 * Writes what connect-es answers to Node, waiting when the peer reads slowly. connect-node's own function encodes
 * `grpc-message` so that grpc-js shows `%2C` for a comma, and takes a callback and two listeners for each message.
 */
export async function sendResponse(
  answer: UniversalServerResponse,
  response: NodeServerResponse,
  options: SendOptions,
): Promise<void> {
  const body = answer.body?.[Symbol.asyncIterator]();
  try {
    // Before the headers: the handler sets them until its first message.
    const first = await body?.next();
    await options.beforeHeaders?.();
    response.statusCode = answer.status;
    for (const [name, value] of answer.header ?? []) response.setHeader(name, value);
    for (let chunk = first; chunk && chunk.done !== true; chunk = await body?.next()) {
      if (response.closed) return;
      if (!response.write(chunk.value)) await drainedOrClosed(response, options);
    }
    if (answer.trailer) {
      // Headers that end the stream, as `end` sends them when there was no body, leave no place for trailers.
      if (!response.headersSent) response.flushHeaders();
      response.addTrailers(trailers(answer.trailer));
    }
    response.end();
  } finally {
    await body?.return?.();
  }
}

function drainedOrClosed(response: NodeServerResponse, { stallTimeoutMs, onStall }: SendOptions): Promise<void> {
  return new Promise((resolve) => {
    const timer = systemClock.setTimer(stallTimeoutMs, () => {
      onStall();
      response.destroy();
    });
    function done(): void {
      timer.cancel();
      response.off("drain", done);
      response.off("close", done);
      resolve();
    }
    if (response.closed) return done();
    response.once("drain", done);
    response.once("close", done);
  });
}

function trailers(from: Headers): Record<string, string> {
  const to: Record<string, string> = Object.fromEntries(from);
  const message = to["grpc-message"];
  if (message !== undefined) to["grpc-message"] = percentEncode(decodeURIComponent(message));
  return to;
}

/**
 * "Percent-Encoded" of https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md#responses: no more than
 * needed, and blanks at the ends, which HTTP/2 forbids there.
 */
export function percentEncode(text: string): string {
  return text.replace(/[^ -$&-~]+|^ | $/gu, (run) => encodeURIComponent(run.toWellFormed()));
}

import type { Readable } from "node:stream";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import type { Clock } from "#kernel/clock.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { HttpRefusal } from "./errors.ts";
import type { HttpRequest } from "./exchange.ts";

export interface BodyLimits {
  readonly maxBytes: number;
  readonly timeoutMs: number;
  readonly clock: Clock;
}

/** Refuses what is certainly no JSON before any of it is read; a missing content type counts as JSON. */
export function checkContentType(type: string | undefined, encoding: string | undefined): void {
  const media = /^application\/([\w.-]+\+)?json *(; *charset="?utf-8"? *)?$/i;
  if (type !== undefined && type !== "application/json" && !media.test(type.trim())) {
    throw unsupportedMedia(
      `The content type ${JSON.stringify(type.slice(0, 100))} is not supported; send "application/json".`,
    );
  }
  if (encoding !== undefined && encoding !== "identity") {
    throw unsupportedMedia(
      `The content encoding ${JSON.stringify(encoding.slice(0, 100))} is not supported; send the body uncompressed.`,
    );
  }
}

function unsupportedMedia(message: string): HttpRefusal {
  return new HttpRefusal(Reason.INVALID_REQUEST, 415, "unsupported_media_type", message, {
    accept: "application/json",
  });
}

/**
 * Holds at most `maxBytes`: a body that declares more is refused unread, one that turns out larger is dropped at once.
 * @throws MeshError REQUEST_TOO_LARGE, CANCELLED when the client goes away; HttpRefusal 408 when it takes too long
 */
export function readBody(request: HttpRequest, limits: BodyLimits): Promise<Buffer> {
  const { maxBytes, timeoutMs, clock } = limits;
  if (Number(request.headers["content-length"] ?? 0) > maxBytes) return Promise.reject(tooLarge(maxBytes));
  const source: Readable = request;
  return new Promise((resolve, reject) => {
    let chunks: Buffer[] = [];
    let size = 0;
    const timer = clock.setTimer(timeoutMs, () => settle(() => reject(bodyTooSlow(timeoutMs))));
    function settle(outcome: () => void): void {
      timer.cancel();
      source.off("data", onData).off("end", onEnd).off("close", onGone).off("error", onGone);
      outcome();
      chunks = [];
    }
    function onData(chunk: Buffer): void {
      size += chunk.length;
      if (size > maxBytes) settle(() => reject(tooLarge(maxBytes)));
      else chunks.push(chunk);
    }
    function onEnd(): void {
      const first = chunks.length === 1 ? chunks[0] : undefined;
      settle(() => resolve(first ?? Buffer.concat(chunks, size)));
    }
    function onGone(): void {
      settle(() => reject(new MeshError(Reason.CANCELLED, "The client went away before its request was complete.")));
    }
    source.on("data", onData).on("end", onEnd).on("close", onGone).on("error", onGone);
  });
}

export function bodyTooSlow(timeoutMs: number): HttpRefusal {
  const message = `The request body did not arrive within ${timeoutMs} ms; send it faster.`;
  return new HttpRefusal(Reason.DEADLINE_EXCEEDED, 408, "request_timeout", message);
}

function tooLarge(maxBytes: number): MeshError {
  const limit = `${maxBytes} bytes`;
  return new MeshError(Reason.REQUEST_TOO_LARGE, `The request body is larger than ${limit}; send less at once.`, {
    limit,
  });
}

/** A client that still sends after its answer may go on this long. */
const lingerMs = 5_000;
const lingerBytes = 64 * 1024 * 1024;

/**
 * Reads and forgets what is left of a request that is answered early. Closing instead would reset the connection under a
 * client that is still sending, and with it the answer that explains the refusal (RFC 9112, section 9.6). The promise
 * resolves when nothing is left; an answer over HTTP/1.1 must not end before, since that closes a connection that is not
 * kept alive. Undefined means that the answer may end at once.
 */
export function discardRest(request: HttpRequest, clock: Clock): Promise<void> | undefined {
  // Over HTTP/2 the end of the answer ends the stream, and no other.
  if (request.complete || request.httpVersion === "2.0") return undefined;
  const source: Readable = request;
  const rest = Promise.withResolvers<void>();
  let size = 0;
  const timer = clock.setTimer(lingerMs, cut, { unref: true });
  function stop(): void {
    timer.cancel();
    source.off("data", onData).off("end", stop).off("close", stop).off("error", stop);
    rest.resolve();
  }
  function cut(): void {
    stop();
    request.destroy();
  }
  function onData(chunk: Buffer): void {
    size += chunk.length;
    if (size > lingerBytes) cut();
  }
  source.on("data", onData).on("end", stop).on("close", stop).on("error", stop);
  return rest.promise;
}

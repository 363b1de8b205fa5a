import type { Socket } from "node:net";
import { systemClock } from "#kernel/clock.ts";

/** RFC 9113, 3.4: what an HTTP/2 client with prior knowledge sends first. */
const preface = Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
/** RFC 8446, 5.1: a TLS client's first record is of type handshake. */
const tlsHandshake = 22;

/** What a client without TLS speaks; undefined while its bytes may become either. */
export function plainProtocol(seen: Buffer): "http1" | "http2" | undefined {
  const known = Math.min(seen.length, preface.length);
  const matches = seen.compare(preface, 0, known, 0, known) === 0;
  if (matches && known < preface.length) return undefined;
  return matches ? "http2" : "http1";
}

export function isTls(seen: Buffer): boolean {
  return seen[0] === tlsHandshake;
}

/**
 * Looks at the first bytes of a connection until `decide` knows what they are, and hands it on paused and with those
 * bytes unread. Buffers no more than `decide` asks for plus one read. `onTimeout` runs when they take too long, and
 * nothing runs when the peer leaves first.
 */
export function sniffProtocol<T>(
  socket: Socket,
  options: {
    readonly timeoutMs: number;
    readonly decide: (seen: Buffer) => T | undefined;
    readonly onProtocol: (protocol: T) => void;
    readonly onTimeout: () => void;
  },
): void {
  let seen: Buffer = Buffer.alloc(0);
  const timer = systemClock.setTimer(options.timeoutMs, () => {
    stop();
    options.onTimeout();
  });

  function stop(): void {
    timer.cancel();
    socket.off("data", onData);
    socket.off("close", stop);
    socket.off("end", onEnd);
  }

  function onData(chunk: Buffer): void {
    seen = seen.length === 0 ? chunk : Buffer.concat([seen, chunk]);
    const protocol = options.decide(seen);
    if (protocol === undefined) return;
    stop();
    socket.pause();
    socket.unshift(seen);
    options.onProtocol(protocol);
  }

  function onEnd(): void {
    stop();
    socket.destroy();
  }

  socket.on("data", onData);
  socket.once("close", stop);
  socket.once("end", onEnd);
}

import type { Socket } from "node:net";
import { systemClock } from "#kernel/clock.ts";

/** RFC 9113, 3.4: what an HTTP/2 client with prior knowledge sends first. */
const preface = Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");

/**
 * Looks at the first bytes of a connection and hands it on with those bytes unread. Buffers no more than the preface
 * plus one read. `onTimeout` runs when they take too long, and nothing runs when the peer leaves first.
 */
export function sniffProtocol(
  socket: Socket,
  options: {
    readonly timeoutMs: number;
    readonly onProtocol: (protocol: "http1" | "http2") => void;
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
    const known = Math.min(seen.length, preface.length);
    const matches = seen.compare(preface, 0, known, 0, known) === 0;
    if (matches && known < preface.length) return;
    stop();
    socket.pause();
    socket.unshift(seen);
    options.onProtocol(matches ? "http2" : "http1");
  }

  function onEnd(): void {
    stop();
    socket.destroy();
  }

  socket.on("data", onData);
  socket.once("close", stop);
  socket.once("end", onEnd);
}

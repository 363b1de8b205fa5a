import type { Socket } from "node:net";
import { DirectRead } from "#kernel/direct-read.ts";
import { initialWindowBytes } from "#kernel/wire/limits.ts";
import { Connection, type ConnectionEnd } from "#kernel/wire/connection.ts";
import { clientPreface } from "#kernel/wire/frame.ts";
import { type HeaderList, requestFault, trailersFault } from "#kernel/wire/header-list.ts";
import { encodeBlock } from "#kernel/wire/hpack-encoder.ts";
import { Setting } from "#kernel/wire/settings-frame.ts";
import { Stream, type StreamEnd, type StreamListener, type WireStream } from "#kernel/wire/stream.ts";
import type { Wire } from "#kernel/wire/wire.ts";
import { ErrorCode, WireError } from "#kernel/wire/wire-error.ts";

export interface ServeOptions {
  /** A well-formed request; what it returns hears the rest. May answer at once. */
  readonly onStream: (stream: WireStream, headers: HeaderList) => StreamListener;
  /** Once, when nothing of the connection is left. */
  readonly onClose?: (end: ConnectionEnd) => void;
}

export interface ServerConnection {
  readonly open: boolean;
  readonly openStreams: number;
  readonly bufferedBytes: number;
  drain(): void;
  destroy(code?: number, reason?: string): void;
}

/**
 * Takes over an accepted socket that speaks HTTP/2, by prior knowledge (RFC 9113, 3.3) or ALPN (3.2). `head` is what
 * was already read of it, if anything; the socket must be paused, or nothing of it lost by being read from now on.
 */
export function serveConnection(wire: Wire, socket: Socket, head: Uint8Array, options: ServeOptions): ServerConnection {
  return new ServerSide(wire, socket, head, options);
}

/** RFC 6585, 5: the header fields together are too large. */
const headersTooLarge = encodeBlock([[":status", "431"]]);

/** Hears the end of a stream that was answered or reset before its own listener was known. */
class EarlyListener implements StreamListener {
  end: StreamEnd | undefined;

  onData(): void {}

  onEnd(): void {}

  onClose(end: StreamEnd): void {
    this.end = end;
  }
}

class ServerSide extends Connection implements ServerConnection {
  readonly stopsRequests = true;
  readonly #onStream: ServeOptions["onStream"];
  #prefaceSeen = 0;

  constructor(wire: Wire, socket: Socket, head: Uint8Array, options: ServeOptions) {
    super(wire, socket, options.onClose ?? (() => {}));
    this.#onStream = options.onStream;
    socket.setNoDelay(true);
    // RFC 9113, 3.4: a server's preface is its SETTINGS.
    this.start(new Uint8Array(0), [
      [Setting.MAX_CONCURRENT_STREAMS, this.limits.maxConcurrentStreams],
      ...(this.limits.streamWindowBytes === initialWindowBytes
        ? []
        : ([[Setting.INITIAL_WINDOW_SIZE, this.limits.streamWindowBytes]] as const)),
      [Setting.MAX_HEADER_LIST_SIZE, this.limits.maxHeaderListBytes],
    ]);
    if (head.length > 0) this.receive(Buffer.from(head), 0, head.length);
    const onBytes = (bytes: Buffer): void => this.receive(bytes, 0, bytes.length);
    // Both: what the stream has read already comes from there, as does everything where there are no direct reads.
    DirectRead.of(socket, onBytes);
    socket.on("data", onBytes);
    socket.resume();
  }

  protected override receive(bytes: Buffer, start: number, end: number): void {
    let at = start;
    if (this.#prefaceSeen < clientPreface.length) {
      const due = Math.min(clientPreface.length - this.#prefaceSeen, end - start);
      at = start + due;
      if (bytes.compare(clientPreface, this.#prefaceSeen, this.#prefaceSeen + due, start, at) !== 0) {
        return this.fail(new WireError(ErrorCode.PROTOCOL_ERROR, "not the preface of an HTTP/2 client"));
      }
      this.#prefaceSeen += due;
    }
    super.receive(bytes, at, end);
  }

  /** RFC 9113, 5.1.1: clients use odd numbers, and each opens all below it. */
  protected override isIdle(streamId: number): boolean {
    return streamId % 2 === 0 || streamId > this.lastPeerStreamId;
  }

  protected override onHeaderList(id: number, list: HeaderList, end: boolean): void {
    const known = this.streams.get(id);
    if (known) return this.onTrailers(known, trailersFault(list), list, end);
    if (!this.isIdle(id)) return this.#onClosedStream(id);
    if (id % 2 === 0) throw new WireError(ErrorCode.PROTOCOL_ERROR, "a client opened a stream with an even number");
    this.lastPeerStreamId = id;
    if (this.refusesStreams) {
      // RFC 9113, 6.8: the GOAWAY said that this stream is not looked at.
      this.closedStreams.add(id, "reset by us");
      return;
    }
    if (this.streams.size >= this.limits.maxConcurrentStreams) {
      this.reached("maxConcurrentStreams");
      return this.refuse(id, ErrorCode.REFUSED_STREAM);
    }
    if (!list.excess && requestFault(list) !== undefined) return this.refuse(id, ErrorCode.PROTOCOL_ERROR);
    const early = new EarlyListener();
    const stream = new Stream(id, this, this.peerInitialWindow, early, true);
    this.streams.set(id, stream);
    if (list.excess) return stream.sendHeaders(headersTooLarge, true);
    stream.contentLength = list.contentLength;
    stream.listener = this.#onStream(stream, list);
    if (early.end) stream.listener.onClose(early.end);
    if (end) stream.receiveEnd(undefined);
  }

  #onClosedStream(id: number): void {
    switch (this.closedStreams.get(id)) {
      case "reset by us":
        return;
      case "ended":
      case "reset by peer":
        throw new WireError(ErrorCode.STREAM_CLOSED, "HEADERS on a closed stream");
      case undefined:
        throw new WireError(ErrorCode.PROTOCOL_ERROR, "a stream number that is lower than an earlier one");
    }
  }
}

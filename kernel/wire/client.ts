import { type Socket, connect as connectTcp } from "node:net";
import { type ConnectionOptions, connect as connectTls } from "node:tls";
import { DirectRead } from "#kernel/direct-read.ts";
import { Connection, type ConnectionEnd } from "#kernel/wire/connection.ts";
import { clientPreface } from "#kernel/wire/frame.ts";
import { type HeaderList, responseFault, trailersFault } from "#kernel/wire/header-list.ts";
import { HeaderBlock, type HeaderFields } from "#kernel/wire/hpack-encoder.ts";
import { Setting } from "#kernel/wire/settings-frame.ts";
import { Stream, type StreamListener, type WireStream } from "#kernel/wire/stream.ts";
import type { Wire } from "#kernel/wire/wire.ts";
import { ErrorCode, WireError } from "#kernel/wire/wire-error.ts";

export interface ConnectOptions {
  readonly host: string;
  readonly port: number;
  /** TLS with ALPN `h2`; plain TCP with prior knowledge without it. */
  readonly tls?: Pick<ConnectionOptions, "ca" | "cert" | "key" | "servername" | "rejectUnauthorized"> | undefined;
  /** Once, when nothing of a connection that was open is left. */
  readonly onClose?: (end: ConnectionEnd) => void;
  /** Gives up a connection that is not open yet. */
  readonly signal?: AbortSignal;
}

export interface ClientConnection {
  /** False once no more streams can be opened: GOAWAY, drain, or the end. */
  readonly open: boolean;
  readonly openStreams: number;
  readonly bufferedBytes: number;
  /** Streams that `request` would open now. */
  readonly spareStreams: number;
  /** Opens a stream. Undefined when `spareStreams` is 0. `end`: the request has no body. */
  request(fields: HeaderFields | HeaderBlock, listener: StreamListener, end?: boolean): WireStream | undefined;
  drain(): void;
  destroy(code?: number, reason?: string): void;
}

/** What one read of a TLS connection may bring: its buffer is used again for every read. */
const readBytes = 65_536;

/** RFC 9113, 6.5.2: the assumption until the server's SETTINGS say. */
const assumedConcurrentStreams = 100;

const lastStreamId = 0x7fff_ffff;

/** Resolves when the server's SETTINGS came; rejects with a `WireError` when they did not within the limits. */
export function connectWire(wire: Wire, options: ConnectOptions): Promise<ClientConnection> {
  return new Promise((resolve, reject) => {
    let connection: ClientSide | undefined;
    const { host, port, tls } = options;
    const socket = tls
      ? connectSecure({ host, port, ...tls }, (bytes, count) => connection?.read(bytes, count))
      : connectTcp({ host, port, noDelay: true });
    let settled = false;
    connection = new ClientSide(wire, socket, {
      onOpen() {
        settled = true;
        resolve(connection as ClientSide);
      },
      onClose(end) {
        if (settled) options.onClose?.(end);
        else reject(new WireError(end.code, `cannot open HTTP/2 to ${host}:${port}: ${end.reason}`));
      },
    });
    const started = connection;
    options.signal?.addEventListener("abort", () => {
      if (!settled) started.destroy(ErrorCode.CANCEL, "given up");
    });
    if (tls) {
      socket.once("secureConnect", () => {
        socket.setNoDelay(true);
        // RFC 9113, 3.2.
        if ("alpnProtocol" in socket && socket.alpnProtocol === "h2") started.greet();
        else started.destroy(ErrorCode.HTTP_1_1_REQUIRED, "the server does not offer h2 in ALPN");
      });
    } else {
      socket.once("connect", () => {
        const onBytes = (bytes: Buffer): void => started.read(bytes, bytes.length);
        // Both, as a server does: where there are no direct reads, all comes from the stream.
        DirectRead.of(socket, onBytes);
        socket.on("data", onBytes);
        started.greet();
      });
    }
  });
}

function connectSecure(options: ConnectionOptions, onBytes: (bytes: Buffer, count: number) => void): Socket {
  const onread = {
    buffer: Buffer.allocUnsafeSlow(readBytes),
    callback(count: number, bytes: Uint8Array) {
      onBytes(bytes as Buffer, count);
      return true;
    },
  };
  // A variable, because the types of `tls.connect` do not know `onread`, which it passes on.
  const secure = { ...options, onread, ALPNProtocols: ["h2"] };
  return connectTls(secure);
}

/** Exported to be driven without a network; others take `connectWire`. */
export class ClientSide extends Connection implements ClientConnection {
  readonly stopsRequests = false;
  #nextStreamId = 1;
  #maxConcurrentStreams = assumedConcurrentStreams;
  #peerLeaves = false;
  #opened = false;
  readonly #onOpen: () => void;

  constructor(wire: Wire, socket: Socket, events: { onOpen: () => void; onClose: (end: ConnectionEnd) => void }) {
    super(wire, socket, events.onClose);
    this.#onOpen = events.onOpen;
  }

  greet(): void {
    this.start(clientPreface, [
      [Setting.ENABLE_PUSH, 0],
      [Setting.MAX_CONCURRENT_STREAMS, 0],
      [Setting.INITIAL_WINDOW_SIZE, this.limits.streamWindowBytes],
      [Setting.MAX_HEADER_LIST_SIZE, this.limits.maxHeaderListBytes],
    ]);
  }

  read(bytes: Buffer, count: number): void {
    this.receive(bytes, 0, count);
  }

  override get open(): boolean {
    return super.open && !this.#peerLeaves && this.#nextStreamId <= lastStreamId;
  }

  get spareStreams(): number {
    return this.open ? Math.max(0, this.#maxConcurrentStreams - this.streams.size) : 0;
  }

  request(fields: HeaderFields | HeaderBlock, listener: StreamListener, end = false): WireStream | undefined {
    if (this.spareStreams === 0) return undefined;
    const stream = new Stream(this.#nextStreamId, this, this.peerInitialWindow, listener, false);
    stream.head =
      !(fields instanceof HeaderBlock) && fields.some(([name, value]) => name === ":method" && value === "HEAD");
    this.streams.set(stream.id, stream);
    try {
      stream.sendHeaders(fields, end);
    } catch (error) {
      this.streams.delete(stream.id);
      throw error;
    }
    this.#nextStreamId += 2;
    return stream;
  }

  protected override onPeerSettings(maxConcurrentStreams: number | undefined): void {
    if (maxConcurrentStreams !== undefined) this.#maxConcurrentStreams = maxConcurrentStreams;
    if (this.#opened) return;
    this.#opened = true;
    // RFC 9113, 6.5.2: without a value there is no limit.
    if (maxConcurrentStreams === undefined) this.#maxConcurrentStreams = lastStreamId;
    this.#onOpen();
  }

  protected override onGoaway(lastStreamId: number, code: number): void {
    this.#peerLeaves = true;
    // RFC 9113, 6.8: streams above it were not acted on.
    for (const stream of this.streams.values()) {
      if (stream.id > lastStreamId) stream.lose(`the server is going away (code ${code})`, true);
    }
    this.onIdle();
  }

  protected override onIdle(): void {
    if (this.#peerLeaves) this.closeWhenIdle({ code: ErrorCode.NO_ERROR, reason: "the server went away" });
  }

  protected override isIdle(streamId: number): boolean {
    return streamId % 2 === 0 || streamId >= this.#nextStreamId;
  }

  protected override onHeaderList(id: number, list: HeaderList, end: boolean): void {
    const stream = this.streams.get(id);
    if (!stream) {
      if (this.isIdle(id)) throw new WireError(ErrorCode.PROTOCOL_ERROR, "HEADERS on a stream that was not opened");
      if (this.closedStreams.get(id) === "reset by us") return;
      throw new WireError(ErrorCode.STREAM_CLOSED, "HEADERS on a closed stream");
    }
    if (stream.headersReceived) return this.onTrailers(stream, trailersFault(list), list, end);
    if (list.excess) return stream.fail(ErrorCode.ENHANCE_YOUR_CALM, `response headers exceed ${list.excess}`);
    const informational = list.status?.startsWith("1") === true;
    // RFC 9113, 8.1 and 8.6: interim responses end nothing, and 101 has no place in HTTP/2.
    const fault =
      responseFault(list) ?? (informational && (end || list.status === "101") ? "a bad interim response" : undefined);
    if (fault !== undefined) return stream.fail(ErrorCode.PROTOCOL_ERROR, fault);
    if (informational) return this.onInterim();
    stream.receiveHeaders(list);
    if (end) stream.receiveEnd(undefined);
  }
}

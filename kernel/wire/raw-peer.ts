/** Test support: a peer that sends exactly the frames it is told to, over a real socket. */
import { once } from "node:events";
import { type AddressInfo, type Socket, connect, createServer } from "node:net";
import { ManualClock } from "#kernel/clock.ts";
import { ByteBuffer } from "#kernel/wire/byte-buffer.ts";
import { Flag, FrameReader, type FrameSink, FrameType, appendFrameHeader, clientPreface } from "#kernel/wire/frame.ts";
import { HpackEncoder, type HeaderFields } from "#kernel/wire/hpack-encoder.ts";
import {
  type Bound,
  type ConnectionEnd,
  type ServeOptions,
  type ServerConnection,
  Wire,
  type WireLimits,
  serveConnection,
} from "#kernel/wire/index.ts";

export interface RawFrame {
  readonly type: number;
  readonly flags: number;
  readonly streamId: number;
  readonly payload: Buffer;
}

export function rawFrame(type: number, flags: number, streamId: number, payload: Uint8Array = Buffer.alloc(0)): Buffer {
  const out = new ByteBuffer();
  appendFrameHeader(out, type, flags, streamId, payload.length);
  out.append(payload, 0, payload.length);
  return Buffer.from(out.bytes.subarray(out.start, out.end));
}

export function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

export function settingsPayload(...settings: (readonly [id: number, value: number])[]): Buffer {
  return Buffer.concat(settings.map(([id, value]) => Buffer.concat([Buffer.from([id >> 8, id]), uint32(value)])));
}

export function headerBytes(fields: HeaderFields): Buffer {
  const out = new ByteBuffer();
  new HpackEncoder().encode(fields, out);
  return Buffer.from(out.bytes.subarray(out.start, out.end));
}

export const getRoot: HeaderFields = [
  [":method", "GET"],
  [":scheme", "http"],
  [":path", "/"],
  [":authority", "localhost"],
];

export class RawPeer implements FrameSink {
  readonly stopped = false;
  readonly frames: RawFrame[] = [];
  readonly closed: Promise<void>;
  readonly #socket: Socket;
  readonly #reader = new FrameReader(this);
  readonly #checks = new Set<() => void>();
  #data: { flags: number; streamId: number; parts: Buffer[] } = { flags: 0, streamId: 0, parts: [] };
  #isClosed = false;

  /** `skip`: bytes of the other side before its first frame, which is the preface of a client. */
  constructor(socket: Socket, skip = 0) {
    this.#socket = socket;
    this.closed = new Promise((resolve) => {
      socket.on("close", () => {
        this.#isClosed = true;
        for (const check of this.#checks) check();
        resolve();
      });
    });
    socket.on("error", () => {
      // The other side cuts connections on purpose; `closed` tells.
    });
    let skipped = 0;
    socket.on("data", (chunk: Buffer) => {
      const from = Math.min(chunk.length, skip - skipped);
      skipped += from;
      this.#reader.read(chunk, from, chunk.length);
    });
  }

  /** A client that says nothing. */
  static async silent(port: number): Promise<RawPeer> {
    const socket = connect(port, "127.0.0.1");
    await once(socket, "connect");
    return new RawPeer(socket);
  }

  /** A client that has greeted. */
  static async connect(port: number, settings: Buffer = Buffer.alloc(0)): Promise<RawPeer> {
    const peer = await RawPeer.silent(port);
    peer.send(clientPreface, rawFrame(FrameType.SETTINGS, 0, 0, settings));
    return peer;
  }

  send(...pieces: Uint8Array[]): void {
    if (this.#socket.writable) this.#socket.write(Buffer.concat(pieces));
  }

  /** Resolves when the socket took everything. */
  async flood(frame: Uint8Array, times: number): Promise<void> {
    const batch = Buffer.concat(Array.from({ length: 100 }, () => frame));
    for (let sent = 0; sent < times && this.#socket.writable; sent += 100) {
      if (!this.#socket.write(batch)) await Promise.race([once(this.#socket, "drain").catch(() => {}), this.closed]);
    }
  }

  request(streamId: number, end = true, fields: HeaderFields = getRoot): void {
    const flags = Flag.END_HEADERS | (end ? Flag.END_STREAM : 0);
    this.send(rawFrame(FrameType.HEADERS, flags, streamId, headerBytes(fields)));
  }

  stopReading(): void {
    this.#socket.pause();
  }

  endSocket(): void {
    this.#socket.end();
  }

  destroy(): void {
    this.#socket.destroy();
  }

  /** The first frame, seen or to come, that `matches`; rejects when the connection closes without. */
  waitFor(matches: (frame: RawFrame) => boolean): Promise<RawFrame> {
    return new Promise((resolve, reject) => {
      const check = (): void => {
        const found = this.frames.find(matches);
        if (!found && !this.#isClosed) return;
        this.#checks.delete(check);
        if (found) resolve(found);
        else reject(new Error("the connection closed without the frame that was waited for"));
      };
      this.#checks.add(check);
      check();
    });
  }

  waitForType(type: number, streamId: number): Promise<RawFrame> {
    return this.waitFor(
      (frame) => frame.type === type && frame.streamId === streamId && !(type === FrameType.PING && frame.flags === 0),
    );
  }

  /** The error code of the GOAWAY that must come. */
  async goawayCode(): Promise<number> {
    return (await this.waitForType(FrameType.GOAWAY, 0)).payload.readUInt32BE(4);
  }

  async resetCode(streamId: number): Promise<number> {
    return (await this.waitForType(FrameType.RST_STREAM, streamId)).payload.readUInt32BE(0);
  }

  /** Resolves when the other side has handled all that was sent. */
  async settle(): Promise<void> {
    const payload = Buffer.alloc(8);
    payload.writeUInt32BE(++this.#pings);
    this.send(rawFrame(FrameType.PING, 0, 0, payload));
    await this.waitFor(
      (frame) => frame.type === FrameType.PING && frame.flags === Flag.ACK && frame.payload.equals(payload),
    );
  }

  #pings = 0;

  frameStarts(): void {}

  frame(type: number, flags: number, streamId: number, bytes: Buffer, start: number, end: number): void {
    this.frames.push({ type, flags, streamId, payload: Buffer.from(bytes.subarray(start, end)) });
    for (const check of this.#checks) check();
  }

  dataStarts(flags: number, streamId: number): void {
    this.#data = { flags, streamId, parts: [] };
  }

  data(bytes: Buffer, start: number, end: number): void {
    this.#data.parts.push(Buffer.from(bytes.subarray(start, end)));
  }

  dataEnds(): void {
    const payload = Buffer.concat(this.#data.parts);
    this.frame(FrameType.DATA, this.#data.flags, this.#data.streamId, payload, 0, payload.length);
  }
}

export interface TestServer {
  readonly port: number;
  readonly clock: ManualClock;
  readonly wire: Wire;
  readonly bounds: Bound[];
  readonly connections: ServerConnection[];
  readonly ends: ConnectionEnd[];
  close(): Promise<void>;
}

/** A server on a free port whose time stands still until told otherwise. */
export async function startTestServer(
  onStream: ServeOptions["onStream"],
  limits: Partial<WireLimits> = {},
): Promise<TestServer> {
  const clock = new ManualClock();
  const bounds: Bound[] = [];
  const connections: ServerConnection[] = [];
  const ends: ConnectionEnd[] = [];
  const wire = new Wire({ clock, limits, onBound: (bound) => bounds.push(bound) });
  const server = createServer((socket) => {
    const onClose = (end: ConnectionEnd): void => void ends.push(end);
    connections.push(serveConnection(wire, socket, new Uint8Array(0), { onStream, onClose }));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  return {
    port,
    clock,
    wire,
    bounds,
    connections,
    ends,
    async close() {
      for (const connection of connections) connection.destroy();
      server.close();
      await once(server, "close");
    },
  };
}

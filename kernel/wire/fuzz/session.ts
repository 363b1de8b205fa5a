import { ok, strictEqual } from "node:assert";
import { Socket } from "node:net";
import { ManualClock } from "#kernel/clock.ts";
import { ClientSide } from "#kernel/wire/client.ts";
import { Flag, FrameReader, type FrameSink, FrameType, clientPreface } from "#kernel/wire/frame.ts";
import { framesOf } from "#kernel/wire/fuzz/mutate.ts";
import { kindOf, lend, sameHoweverSplit } from "#kernel/wire/fuzz/pieces.ts";
import { StreamProbe, answer, answerBytes } from "#kernel/wire/fuzz/stream-probe.ts";
import { HpackDecoder } from "#kernel/wire/hpack-decoder.ts";
import { type ConnectionEnd, Wire, type WireStream, serveConnection } from "#kernel/wire/index.ts";
import { wireLimits } from "#kernel/wire/limits.ts";
import { getRoot } from "#kernel/wire/raw-peer.ts";

/** Small, so that short sessions reach them. */
const limits = {
  maxConcurrentStreams: 6,
  maxHeaderListBytes: 1_000,
  maxHeaderFields: 20,
  maxContinuations: 3,
  maxUnsentBytes: 8_192,
  maxStreamWaitingBytes: 20_000,
  maxBufferedBytes: 50_000,
  resets: { burst: 6, perSecond: 1 },
  settings: { burst: 6, perSecond: 1 },
  pings: { burst: 6, perSecond: 1 },
  emptyFrames: { burst: 10, perSecond: 1 },
  windowUpdates: { burst: 10, perSecond: 1 },
};
/** One message may pass a bound, and frames of the connection itself are rationed, not counted. */
const mostBuffered = limits.maxBufferedBytes + answerBytes + 10_000;

/** What the first byte of an input chooses. */
export const Mode = { STALLED: 1, DRAINS: 2, TIME_PASSES: 4 } as const;

/** What a connection has of a network: it writes here, and is read from by `emit("data")`. */
class MemorySocket extends Socket {
  readonly written: Buffer[] = [];
  readonly #stalled: boolean;

  constructor(stalled: boolean) {
    super();
    this.#stalled = stalled;
  }

  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.written.push(Buffer.from(chunk));
    if (!this.#stalled) done();
  }

  override _writev(chunks: { chunk: Buffer }[], done: () => void): void {
    for (const { chunk } of chunks) this.written.push(Buffer.from(chunk));
    if (!this.#stalled) done();
  }

  override _final(done: () => void): void {
    done();
  }

  override _read(): void {}
}

interface Session {
  readonly wire: Wire;
  readonly clock: ManualClock;
  readonly socket: MemorySocket;
  /** What its streams heard, and how it ended. */
  readonly events: string[];
  feed(bytes: Buffer): void;
  drain(): void;
  readonly bufferedBytes: number;
  readonly openStreams: number;
}

type Open = (mode: number) => Session;

export const openServer: Open = (mode) => {
  const clock = new ManualClock();
  const wire = new Wire({ clock, limits });
  const socket = new MemorySocket((mode & Mode.STALLED) !== 0);
  const events: string[] = [];
  const connection = serveConnection(wire, socket, clientPreface, {
    onStream(stream, headers) {
      events.push(`request ${stream.id} ${headers.method} ${headers.path} ${headers.fields.join()}`);
      const handler = new StreamProbe(stream.id, events, () => stream);
      handler.begin();
      return handler;
    },
    onClose: (end) => tell(events, end),
  });
  return {
    wire,
    clock,
    socket,
    events,
    // The socket's chunks are its listener's to keep only during the call.
    feed: (bytes) => lend(bytes, (lent, start, end) => socket.emit("data", lent.subarray(start, end))),
    drain: () => connection.drain(),
    get bufferedBytes() {
      return connection.bufferedBytes;
    },
    get openStreams() {
      return connection.openStreams;
    },
  };
};

export const openClient: Open = (mode) => {
  const clock = new ManualClock();
  const wire = new Wire({ clock, limits });
  const socket = new MemorySocket((mode & Mode.STALLED) !== 0);
  const events: string[] = [];
  const connection = new ClientSide(wire, socket, {
    onOpen() {
      for (let id = 1; id <= 9; id += 2) {
        let stream: WireStream | undefined;
        const handler = new StreamProbe(id, events, () => stream);
        stream = connection.request(id === 9 ? headRoot : getRoot, handler, id === 3);
        if (stream && id !== 3) stream.write(answer, 0, id * 1_000);
      }
    },
    onClose: (end) => tell(events, end),
  });
  connection.greet();
  return {
    wire,
    clock,
    socket,
    events,
    feed: (bytes) => lend(bytes, (lent, start, end) => connection.read(lent.subarray(start, end), end - start)),
    drain: () => connection.drain(),
    get bufferedBytes() {
      return connection.bufferedBytes;
    },
    get openStreams() {
      return connection.openStreams;
    },
  };
};

const headRoot = getRoot.map(([name, value]) => [name, name === ":method" ? "HEAD" : value] as const);

function tell(events: string[], { code, reason }: ConnectionEnd): void {
  ok(!events.some((event) => event.startsWith("over")), "a connection ends once");
  events.push(`over ${code} ${reason}`);
}

/** A session within one turn, whole and in pieces, and then frame by frame with turns, time and a drain between. */
export async function runSession(open: Open, input: Buffer): Promise<string> {
  const mode = input[0] ?? 0;
  const bytes = input.subarray(1);
  const sessions: Session[] = [];
  sameHoweverSplit(bytes, (pieces) => {
    const session = open(mode);
    sessions.push(session);
    for (const piece of pieces) {
      session.feed(piece);
      isBounded(session);
    }
    return session.events.join("\n");
  });
  const last = open(mode);
  sessions.push(last);
  for (const frame of framesOf(bytes)) {
    last.feed(frame);
    isBounded(last);
    if (mode & Mode.TIME_PASSES) last.clock.advance(700);
    await turn();
    isBounded(last);
  }
  if (mode & Mode.DRAINS) last.drain();
  await turn();
  for (const session of sessions) {
    session.socket.emit("end");
    strictEqual(session.wire.connections, 0, "nothing of a connection is left");
    strictEqual(session.wire.budget.usedBytes, 0, "a connection that is over holds no bytes");
    strictEqual(session.openStreams, 0, "a connection that is over has no streams");
    isHttp2(session.socket.written, open === openClient ? clientPreface.length : 0);
  }
  await turn();
  return kindOf(last.events.at(-1) ?? "", last.events.length, last.socket.written.length);
}

/** Twice, for what waits for the turn after next. */
async function turn(): Promise<void> {
  for (let count = 0; count < 3; count++) await new Promise((resolve) => setImmediate(resolve));
}

function isBounded({ bufferedBytes, openStreams, wire }: Session): void {
  ok(bufferedBytes <= mostBuffered, `${bufferedBytes} bytes are buffered`);
  ok(wire.budget.usedBytes <= mostBuffered, `${wire.budget.usedBytes} bytes are counted`);
  ok(openStreams <= limits.maxConcurrentStreams, `${openStreams} streams are open`);
}

/** What we sent is frames, and header blocks that a decoder takes. */
function isHttp2(written: readonly Buffer[], skip: number): void {
  const decoder = new HpackDecoder(wireLimits());
  const sink: FrameSink = {
    stopped: false,
    frameStarts() {},
    frame(type, flags, _streamId, bytes, start, end) {
      if (type !== FrameType.HEADERS) return;
      strictEqual(flags & Flag.END_HEADERS, Flag.END_HEADERS);
      decoder.decode(bytes, start, end);
      strictEqual(decoder.finish().fault, undefined);
    },
    dataStarts() {},
    data() {},
    dataEnds() {},
  };
  const bytes = Buffer.concat(written);
  new FrameReader(sink).read(bytes, Math.min(skip, bytes.length), bytes.length);
}

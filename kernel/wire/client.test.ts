import { once } from "node:events";
import { type AddressInfo, createServer } from "node:net";
import { afterEach, describe, expect, test } from "vitest";
import { ManualClock } from "#kernel/clock.ts";
import { Flag, FrameType, clientPreface } from "#kernel/wire/frame.ts";
import {
  type ClientConnection,
  type ConnectionEnd,
  ErrorCode,
  type HeaderFields,
  type StreamEnd,
  Wire,
  type WireLimits,
  WireError,
  type WireStream,
  connectWire,
} from "#kernel/wire/index.ts";
import { RawPeer, getRoot, headerBytes, rawFrame, settingsPayload, uint32 } from "#kernel/wire/raw-peer.ts";
import { Setting } from "#kernel/wire/settings-frame.ts";

const closers: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

interface Meeting {
  readonly connection: ClientConnection;
  /** The server's side of it. */
  readonly peer: RawPeer;
  readonly clock: ManualClock;
  readonly closed: Promise<ConnectionEnd>;
}

async function listenRaw(greet: (peer: RawPeer) => void): Promise<{ port: number; peer: Promise<RawPeer> }> {
  const accepted = Promise.withResolvers<RawPeer>();
  const server = createServer((socket) => {
    const peer = new RawPeer(socket, clientPreface.length);
    closers.push(() => peer.destroy());
    greet(peer);
    accepted.resolve(peer);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  closers.push(() => void server.close());
  return { port: (server.address() as AddressInfo).port, peer: accepted.promise };
}

async function meet(settings: Buffer = Buffer.alloc(0), limits: Partial<WireLimits> = {}): Promise<Meeting> {
  const { port, peer } = await listenRaw((server) => server.send(rawFrame(FrameType.SETTINGS, 0, 0, settings)));
  const clock = new ManualClock();
  const closed = Promise.withResolvers<ConnectionEnd>();
  const connection = await connectWire(new Wire({ clock, limits }), {
    host: "127.0.0.1",
    port,
    onClose: (end) => closed.resolve(end),
  });
  closers.push(() => connection.destroy());
  return { connection, peer: await peer, clock, closed: closed.promise };
}

interface Seen {
  readonly stream: WireStream | undefined;
  readonly headers: (string | undefined)[];
  readonly trailers: (string[] | undefined)[];
  readonly body: () => string;
  readonly end: Promise<StreamEnd>;
}

function get(connection: ClientConnection, fields: HeaderFields = getRoot): Seen {
  const end = Promise.withResolvers<StreamEnd>();
  const headers: (string | undefined)[] = [];
  const trailers: (string[] | undefined)[] = [];
  let body = "";
  const listener = {
    onHeaders: (list: { status: string | undefined }) => void headers.push(list.status),
    onData: (bytes: Buffer, start: number, end: number) => void (body += bytes.toString("latin1", start, end)),
    onEnd: (list: { fields: string[] } | undefined) => void trailers.push(list?.fields),
    onClose: (outcome: StreamEnd) => end.resolve(outcome),
  };
  const stream = connection.request(fields, listener, true);
  return { stream, headers, trailers, body: () => body, end: end.promise };
}

const headersFrame = (id: number, fields: HeaderFields, flags: number = Flag.END_HEADERS): Buffer =>
  rawFrame(FrameType.HEADERS, flags, id, headerBytes(fields));
const ended = Flag.END_HEADERS | Flag.END_STREAM;

test("whoever asks for a sign of life hears each answer once, and may give up a peer that says nothing", async () => {
  const { connection, peer, closed } = await meet();
  const seen = get(connection);
  const heard: string[] = [];
  seen.stream?.ping(() => void heard.push("first"));
  seen.stream?.ping(() => void heard.push("second"));
  const asked = () => peer.frames.filter(({ type, flags }) => type === FrameType.PING && flags === 0);
  await peer.waitFor(() => asked().length === 2);
  // An answer that nobody asked for is nobody's.
  for (const { payload } of [...asked(), ...asked()]) peer.send(rawFrame(FrameType.PING, Flag.ACK, 0, payload));
  await expect.poll(() => heard).toEqual(["first", "second"]);
  seen.stream?.cutConnection("it is gone");
  expect(await seen.end).toMatchObject({ kind: "lost", reason: "it is gone" });
  expect(await closed).toMatchObject({ code: ErrorCode.CONNECT_ERROR });
});

describe("a client", () => {
  test("passes over interim responses", async () => {
    const { connection, peer } = await meet();
    const seen = get(connection);
    peer.send(
      headersFrame(1, [[":status", "103"]]),
      headersFrame(1, [[":status", "200"]]),
      rawFrame(FrameType.DATA, 0, 1, Buffer.from("body")),
      headersFrame(1, [["grpc-status", "0"]], ended),
    );
    expect(await seen.end).toEqual({ kind: "complete" });
    expect(seen.headers).toEqual(["200"]);
    expect(seen.body()).toBe("body");
    expect(seen.trailers).toEqual([["grpc-status", "0"]]);
  });

  test("does not open more streams than the server allows", async () => {
    const { connection, peer } = await meet(settingsPayload([Setting.MAX_CONCURRENT_STREAMS, 1]));
    expect(connection.spareStreams).toBe(1);
    const seen = get(connection);
    expect(get(connection).stream).toBeUndefined();
    peer.send(headersFrame(1, [[":status", "200"]], ended));
    await seen.end;
    expect(get(connection).stream?.id).toBe(3);
  });

  test("says which streams a leaving server did not touch, and closes after the others", async () => {
    const { connection, peer, closed } = await meet();
    const first = get(connection);
    const second = get(connection);
    peer.send(rawFrame(FrameType.GOAWAY, 0, 0, Buffer.concat([uint32(1), uint32(ErrorCode.NO_ERROR)])));
    expect(await second.end).toMatchObject({ kind: "lost", unprocessed: true });
    expect(connection.open).toBe(false);
    expect(get(connection).stream).toBeUndefined();
    peer.send(headersFrame(1, [[":status", "200"]], ended));
    expect(await first.end).toEqual({ kind: "complete" });
    expect(await closed).toEqual({ code: ErrorCode.NO_ERROR, reason: "the server went away" });
  });

  test("says that a refused stream may be sent again, and that a cancelled one may not", async () => {
    const { connection, peer } = await meet();
    const refused = get(connection);
    const cancelled = get(connection);
    peer.send(rawFrame(FrameType.RST_STREAM, 0, 1, uint32(ErrorCode.REFUSED_STREAM)));
    peer.send(rawFrame(FrameType.RST_STREAM, 0, 3, uint32(ErrorCode.CANCEL)));
    expect(await refused.end).toMatchObject({ kind: "reset", by: "peer", unprocessed: true });
    expect(await cancelled.end).toMatchObject({ kind: "reset", by: "peer", unprocessed: false });
  });

  test("loses its streams when the connection breaks", async () => {
    const { connection, peer } = await meet();
    const seen = get(connection);
    peer.destroy();
    expect(await seen.end).toMatchObject({ kind: "lost", unprocessed: false });
    expect(connection.open).toBe(false);
  });

  test("takes no body with a response to HEAD for a lie about its length", async () => {
    const { connection, peer } = await meet();
    const seen = get(connection, [[":method", "HEAD"], ...getRoot.slice(1)]);
    peer.send(
      headersFrame(
        1,
        [
          [":status", "200"],
          ["content-length", "5"],
        ],
        ended,
      ),
    );
    expect(await seen.end).toEqual({ kind: "complete" });
  });

  test.each<[string, Buffer]>([
    ["without :status", headersFrame(1, [["x-a", "1"]])],
    ["with a :status of no number", headersFrame(1, [[":status", "abc"]])],
    ["with status 101", headersFrame(1, [[":status", "101"]])],
    ["with DATA before its headers", rawFrame(FrameType.DATA, 0, 1, Buffer.from("x"))],
    [
      "shorter than its content-length",
      headersFrame(
        1,
        [
          [":status", "200"],
          ["content-length", "5"],
        ],
        ended,
      ),
    ],
  ])("resets a response %s", async (_what, frame) => {
    const { connection, peer } = await meet();
    const seen = get(connection);
    peer.send(frame);
    expect(await seen.end).toMatchObject({ kind: "reset", by: "us", code: ErrorCode.PROTOCOL_ERROR });
    expect(await peer.resetCode(1)).toBe(ErrorCode.PROTOCOL_ERROR);
  });

  test.each<[string, Buffer, number]>([
    ["pushes", rawFrame(FrameType.PUSH_PROMISE, Flag.END_HEADERS, 1, Buffer.alloc(4)), ErrorCode.PROTOCOL_ERROR],
    [
      "allows push",
      rawFrame(FrameType.SETTINGS, 0, 0, settingsPayload([Setting.ENABLE_PUSH, 1])),
      ErrorCode.PROTOCOL_ERROR,
    ],
    ["answers what was not asked", headersFrame(7, [[":status", "200"]]), ErrorCode.PROTOCOL_ERROR],
    ["opens a stream", headersFrame(2, [[":status", "200"]]), ErrorCode.PROTOCOL_ERROR],
    ["floods with interim responses", Buffer.alloc(0), ErrorCode.ENHANCE_YOUR_CALM],
  ])("ends the connection of a server that %s", async (_what, frame, code) => {
    const { connection, peer, closed } = await meet(undefined, { emptyFrames: { burst: 50, perSecond: 1 } });
    const seen = get(connection);
    peer.send(frame, ...Array.from({ length: 60 }, () => headersFrame(1, [[":status", "103"]])));
    expect(await peer.goawayCode()).toBe(code);
    expect(await seen.end).toMatchObject({ kind: "lost" });
    peer.destroy();
    expect((await closed).code).toBe(code);
  });

  test("asks a silent server whether it is there, and gives it up", async () => {
    const { connection, peer, clock } = await meet(undefined, {
      keepAliveIntervalMs: 5_000,
      keepAliveTimeoutMs: 2_000,
    });
    peer.send(rawFrame(FrameType.SETTINGS, Flag.ACK, 0));
    await peer.waitFor(({ type, flags }) => type === FrameType.SETTINGS && flags === Flag.ACK);
    const seen = get(connection);
    clock.advance(5_500);
    await peer.waitFor(({ type, flags }) => type === FrameType.PING && flags === 0);
    clock.advance(2_500);
    expect(await seen.end).toMatchObject({ kind: "lost", reason: "the peer did not answer a PING" });
  });

  test("gives up a server that never sends SETTINGS", async () => {
    const { port, peer } = await listenRaw(() => {});
    const clock = new ManualClock();
    const connecting = connectWire(new Wire({ clock }), { host: "127.0.0.1", port });
    await peer;
    clock.advance(10_500);
    // The linger timeout passes too, for this server does not close either.
    clock.advance(1_500);
    const error: unknown = await connecting.catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(WireError);
    expect(error).toMatchObject({ code: ErrorCode.ENHANCE_YOUR_CALM });
  });

  test("rejects when nobody listens", async () => {
    const { port } = await listenRaw(() => {});
    for (const close of closers.splice(0)) await close();
    await expect(connectWire(new Wire({ clock: new ManualClock() }), { host: "127.0.0.1", port })).rejects.toThrow(
      /ECONNREFUSED/,
    );
  });

  test("refuses to send a header that HTTP/2 forbids, and the connection goes on", async () => {
    const { connection, peer } = await meet();
    expect(() => get(connection, [...getRoot, ["x-a", "1\r\nx-b: 2"]])).toThrow(TypeError);
    expect(connection.openStreams).toBe(0);
    const seen = get(connection);
    peer.send(headersFrame(1, [[":status", "204"]], ended));
    expect(await seen.end).toEqual({ kind: "complete" });
  });
});

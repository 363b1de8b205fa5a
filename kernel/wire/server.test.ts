import { afterEach, expect, test } from "vitest";
import { Flag, FrameType } from "#kernel/wire/frame.ts";
import { ErrorCode, type ServeOptions, type WireStream, encodeBlock } from "#kernel/wire/index.ts";
import {
  RawPeer,
  type TestServer,
  getRoot,
  rawFrame,
  settingsPayload,
  startTestServer,
  uint32,
} from "#kernel/wire/raw-peer.ts";
import { Setting } from "#kernel/wire/settings-frame.ts";

const opened: { close(): Promise<void> }[] = [];
afterEach(async () => {
  for (const pair of opened.splice(0)) await pair.close();
});

async function meet(
  onStream: ServeOptions["onStream"],
  settings?: Buffer,
): Promise<{ server: TestServer; peer: RawPeer }> {
  const server = await startTestServer(onStream);
  const peer = await RawPeer.connect(server.port, settings);
  opened.push({
    close() {
      peer.destroy();
      return server.close();
    },
  });
  return { server, peer };
}

const ok = encodeBlock([[":status", "200"]]);

/** Answers a request when it is complete. */
const answer =
  (respond: (stream: WireStream) => void): ServeOptions["onStream"] =>
  (stream) => ({ onData() {}, onEnd: () => respond(stream), onClose() {} });

test("the last DATA frame of a turn carries END_STREAM itself", async () => {
  const { peer } = await meet(
    answer((stream) => {
      stream.sendHeaders(ok);
      stream.writeMessage(Buffer.from("(message)"), 1, 8);
      stream.end();
    }),
  );
  peer.request(1);
  peer.request(3);
  const data = await peer.waitForType(FrameType.DATA, 1);
  expect(data.payload.toString()).toBe("\0\0\0\0\x07message");
  expect(data.flags).toBe(Flag.END_STREAM);
  expect((await peer.waitForType(FrameType.DATA, 3)).flags).toBe(Flag.END_STREAM);
});

test("an end that comes after its DATA has left is a frame of its own", async () => {
  const streams: WireStream[] = [];
  const { peer } = await meet(
    answer((stream) => {
      streams.push(stream);
      stream.sendHeaders(ok);
      stream.write(Buffer.from("a"));
    }),
  );
  peer.request(1);
  expect((await peer.waitForType(FrameType.DATA, 1)).flags).toBe(0);
  streams[0]?.end();
  const last = await peer.waitFor((frame) => frame.type === FrameType.DATA && frame.flags === Flag.END_STREAM);
  expect(last.payload).toHaveLength(0);
});

test("what exceeds the window waits, trailers behind it, and goes on as the window opens", async () => {
  let drains = 0;
  const waiting: number[] = [];
  const { peer } = await meet(
    (stream) => ({
      onData() {},
      onEnd() {
        stream.sendHeaders(ok);
        expect(stream.write(Buffer.from("0123456789"))).toBe(false);
        waiting.push(stream.waitingBytes);
        stream.end([["grpc-status", "0"]]);
      },
      onDrain: () => void drains++,
      onClose() {},
    }),
    settingsPayload([Setting.INITIAL_WINDOW_SIZE, 4]),
  );
  peer.request(1);
  expect((await peer.waitForType(FrameType.DATA, 1)).payload.toString()).toBe("0123");
  expect(waiting).toEqual([6]);
  peer.send(rawFrame(FrameType.SETTINGS, 0, 0, settingsPayload([Setting.INITIAL_WINDOW_SIZE, 8])));
  await peer.waitFor((frame) => frame.payload.toString() === "4567");
  peer.send(rawFrame(FrameType.WINDOW_UPDATE, 0, 1, uint32(100)));
  await peer.waitFor((frame) => frame.payload.toString() === "89");
  const trailers = await peer.waitFor(
    (frame) => frame.type === FrameType.HEADERS && (frame.flags & Flag.END_STREAM) > 0,
  );
  expect(trailers.streamId).toBe(1);
  expect(drains).toBe(0);
});

test("a writer that was told to wait hears when nothing waits any more", async () => {
  let drains = 0;
  const { peer } = await meet(
    (stream) => ({
      onData() {},
      onEnd() {
        stream.sendHeaders(ok);
        stream.write(Buffer.from("0123456789"));
      },
      onDrain() {
        drains++;
        stream.end();
      },
      onClose() {},
    }),
    settingsPayload([Setting.INITIAL_WINDOW_SIZE, 4]),
  );
  peer.request(1);
  await peer.waitForType(FrameType.DATA, 1);
  peer.send(rawFrame(FrameType.WINDOW_UPDATE, 0, 1, uint32(6)));
  const last = await peer.waitFor((frame) => frame.type === FrameType.DATA && frame.flags === Flag.END_STREAM);
  expect(last.payload.toString()).toBe("456789");
  expect(drains).toBe(1);
});

test("streams that wait for the connection's window take turns", async () => {
  const size = 100_000;
  const { peer } = await meet(
    answer((stream) => {
      stream.sendHeaders(ok);
      stream.write(Buffer.alloc(size));
      stream.end();
    }),
    settingsPayload([Setting.INITIAL_WINDOW_SIZE, size]),
  );
  for (const id of [1, 3, 5]) peer.request(id);
  await peer.settle();
  peer.frames.length = 0;
  peer.send(rawFrame(FrameType.WINDOW_UPDATE, 0, 0, uint32(60_000)));
  await peer.settle();
  const ids = peer.frames.filter(({ type }) => type === FrameType.DATA).map(({ streamId }) => streamId);
  expect(new Set(ids)).toEqual(new Set([1, 3, 5]));
});

test("windows are given back in halves, not frame by frame", async () => {
  const { peer } = await meet((stream) => ({
    onData: (_bytes, start, end) => stream.consumed(end - start),
    onEnd() {},
    onClose() {},
  }));
  peer.request(1, false);
  for (let sent = 0; sent < 8; sent++) peer.send(rawFrame(FrameType.DATA, 0, 1, Buffer.alloc(16_384)));
  await peer.settle();
  const updates = peer.frames.filter(({ type, streamId }) => type === FrameType.WINDOW_UPDATE && streamId === 1);
  expect(updates.map(({ payload }) => payload.readUInt32BE())).toEqual([131_072]);
});

test("a drain warns, serves what was under way, says the last stream, and closes", async () => {
  const streams: WireStream[] = [];
  const { server, peer } = await meet(answer((stream) => void streams.push(stream)));
  peer.request(1);
  await peer.settle();
  server.connections[0]?.drain();
  const warning = await peer.waitForType(FrameType.GOAWAY, 0);
  expect(warning.payload.readUInt32BE(0)).toBe(0x7fff_ffff);
  expect(warning.payload.readUInt32BE(4)).toBe(ErrorCode.NO_ERROR);
  // Under way when the warning came.
  peer.request(3);
  const ping = await peer.waitFor(({ type, flags }) => type === FrameType.PING && flags === 0);
  peer.send(rawFrame(FrameType.PING, Flag.ACK, 0, ping.payload));
  const last = await peer.waitFor(({ type, payload }) => type === FrameType.GOAWAY && payload.readUInt32BE(0) === 3);
  expect(last.payload.readUInt32BE(4)).toBe(ErrorCode.NO_ERROR);
  peer.request(5);
  await peer.settle();
  expect(streams.map(({ id }) => id)).toEqual([1, 3]);
  for (const stream of streams) stream.sendHeaders(ok, true);
  await peer.closed;
  await expect.poll(() => server.ends).toEqual([{ code: ErrorCode.NO_ERROR, reason: "drained" }]);
  expect(peer.frames.filter(({ streamId }) => streamId === 5)).toEqual([]);
});

test("a handler may reset its stream, and hears of a reset by the peer", async () => {
  const ends: unknown[] = [];
  const { peer } = await meet((stream, headers) => ({
    onData() {},
    onEnd() {
      if (headers.path === "/") stream.reset(ErrorCode.CANCEL);
    },
    onClose: (end) => void ends.push(end),
  }));
  peer.request(1);
  expect(await peer.resetCode(1)).toBe(ErrorCode.CANCEL);
  peer.request(3, false);
  peer.send(rawFrame(FrameType.RST_STREAM, 0, 3, uint32(ErrorCode.CANCEL)));
  await peer.settle();
  expect(ends).toMatchObject([
    { kind: "reset", by: "us" },
    { kind: "reset", by: "peer", code: ErrorCode.CANCEL, unprocessed: false },
  ]);
});

test("trailers of a request reach its handler", async () => {
  const seen: unknown[] = [];
  const { peer } = await meet(() => ({
    onData() {},
    onEnd: (trailers) => void seen.push(trailers?.fields),
    onClose() {},
  }));
  peer.request(1, false);
  peer.request(1, true, [["x-sum", "7"]]);
  await peer.settle();
  expect(seen).toEqual([["x-sum", "7"]]);
});

test.each([
  ["without :path", getRoot.filter(([name]) => name !== ":path")],
  ["with a :path of no slash", [...getRoot.filter(([name]) => name !== ":path"), [":path", "x"]] as typeof getRoot],
  ["with te: gzip", [...getRoot, ["te", "gzip"]] as typeof getRoot],
  ["with two content lengths", [...getRoot, ["content-length", "1"], ["content-length", "2"]] as typeof getRoot],
  ["whose body is not as long as it says", [...getRoot, ["content-length", "7"]] as typeof getRoot],
])("a request %s is reset", async (_what, fields) => {
  const { peer } = await meet(answer((stream) => stream.sendHeaders(ok, true)));
  peer.request(1, true, fields);
  expect(await peer.resetCode(1)).toBe(ErrorCode.PROTOCOL_ERROR);
  await peer.settle();
});

test("a body longer than its content-length is reset, and what is within it was told", async () => {
  const seen: string[] = [];
  const { peer } = await meet(() => ({
    onData(bytes, start, end) {
      seen.push(bytes.toString("latin1", start, end));
    },
    onEnd() {},
    onClose() {},
  }));
  const body = rawFrame(FrameType.DATA, Flag.END_STREAM, 1, Buffer.from("hello!"));
  peer.request(1, false, [...getRoot, ["content-length", "5"]]);
  peer.send(body);
  expect(await peer.resetCode(1)).toBe(ErrorCode.PROTOCOL_ERROR);
  expect(seen).toEqual(["hello"]);
});

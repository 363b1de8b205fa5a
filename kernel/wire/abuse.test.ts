import fc from "fast-check";
import { afterEach, describe, expect, test } from "vitest";
import { Flag, FrameType } from "#kernel/wire/frame.ts";
import { ErrorCode, type ServeOptions, type WireLimits } from "#kernel/wire/index.ts";
import {
  RawPeer,
  type TestServer,
  getRoot,
  headerBytes,
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

const ignore: ServeOptions["onStream"] = (stream) => ({
  onData: (_bytes, start, end) => stream.consumed(end - start),
  onEnd() {},
  onClose() {},
});

async function meet(
  limits: Partial<WireLimits> = {},
  onStream: ServeOptions["onStream"] = ignore,
  settings?: Buffer,
): Promise<{ server: TestServer; peer: RawPeer }> {
  const server = await startTestServer(onStream, limits);
  const peer = await RawPeer.connect(server.port, settings);
  opened.push({
    close() {
      peer.destroy();
      return server.close();
    },
  });
  return { server, peer };
}

const openRequest = (id: number): Buffer => rawFrame(FrameType.HEADERS, Flag.END_HEADERS, id, headerBytes(getRoot));

describe("a flood ends in ENHANCE_YOUR_CALM", () => {
  test("of streams that are reset at once (CVE-2023-44487), each heard by its handler", async () => {
    let alive = 0;
    let most = 0;
    let started = 0;
    const { server, peer } = await meet({ resets: { burst: 100, perSecond: 1 } }, () => {
      started++;
      most = Math.max(most, ++alive);
      return { onData() {}, onEnd() {}, onClose: () => void alive-- };
    });
    for (let id = 1; id < 2_000; id += 2) {
      peer.send(openRequest(id), rawFrame(FrameType.RST_STREAM, 0, id, uint32(ErrorCode.CANCEL)));
    }
    expect(await peer.goawayCode()).toBe(ErrorCode.ENHANCE_YOUR_CALM);
    expect({ alive, most, started }).toEqual({ alive: 0, most: 1, started: 101 });
    expect(server.bounds).toEqual(["resets"]);
  });

  test("of faults that make the server reset streams (CVE-2025-8671)", async () => {
    const { peer } = await meet({ resets: { burst: 50, perSecond: 1 } });
    for (let id = 1; id < 400; id += 2) peer.send(openRequest(id), rawFrame(FrameType.WINDOW_UPDATE, 0, id, uint32(0)));
    expect(await peer.goawayCode()).toBe(ErrorCode.ENHANCE_YOUR_CALM);
  });

  test("of CONTINUATION frames (CVE-2024-27316)", async () => {
    const { server, peer } = await meet();
    peer.send(rawFrame(FrameType.HEADERS, 0, 1, headerBytes(getRoot)));
    for (let count = 0; count < 50; count++) peer.send(rawFrame(FrameType.CONTINUATION, 0, 1));
    expect(await peer.goawayCode()).toBe(ErrorCode.ENHANCE_YOUR_CALM);
    expect(server.bounds).toEqual(["maxContinuations"]);
  });

  test.each([
    ["settings", rawFrame(FrameType.SETTINGS, 0, 0)],
    ["pings", rawFrame(FrameType.PING, 0, 0, Buffer.alloc(8))],
    ["windowUpdates", rawFrame(FrameType.WINDOW_UPDATE, 0, 0, uint32(1))],
    ["emptyFrames", rawFrame(FrameType.PRIORITY, 0, 1, Buffer.from([0, 0, 0, 3, 1]))],
    ["emptyFrames", rawFrame(0x5c, 0, 0)],
    ["emptyFrames", rawFrame(FrameType.DATA, 0, 1)],
    ["emptyFrames", rawFrame(FrameType.DATA, 0, 1, Buffer.from("x"))],
    ["emptyFrames", rawFrame(FrameType.DATA, Flag.PADDED, 1, Buffer.alloc(100, 99))],
  ])("of %s: %s", async (bound, frame) => {
    const { server, peer } = await meet();
    peer.request(1, false);
    await peer.flood(frame, 20_000);
    expect(await peer.goawayCode()).toBe(ErrorCode.ENHANCE_YOUR_CALM);
    expect(server.bounds).toEqual([bound]);
  });

  test("of an HPACK bomb: a large entry referred to by a byte each time", async () => {
    const { peer } = await meet();
    const bomb = Buffer.concat([headerBytes([...getRoot, ["bomb", "x".repeat(900)]]), Buffer.alloc(15_000, 0xbe)]);
    peer.send(rawFrame(FrameType.HEADERS, Flag.END_HEADERS, 1, bomb));
    expect(await peer.goawayCode()).toBe(ErrorCode.ENHANCE_YOUR_CALM);
  });

  test("of a header string that is announced but never sent", async () => {
    const { peer } = await meet();
    peer.send(rawFrame(FrameType.HEADERS, 0, 1, Buffer.from("4001617fffff7f", "hex")));
    expect(await peer.goawayCode()).toBe(ErrorCode.ENHANCE_YOUR_CALM);
  });
});

describe("a peer that does not read", () => {
  const large = Buffer.alloc(100_000, 1);
  const stubborn: ServeOptions["onStream"] = (stream) => ({
    onData() {},
    onEnd() {
      stream.sendHeaders([[":status", "200"]]);
      for (let count = 0; count < 100; count++) stream.write(large);
    },
    onClose() {},
  });
  const noWindow = settingsPayload([Setting.INITIAL_WINDOW_SIZE, 0]);

  test("loses a stream whose waiting bytes pass their bound", async () => {
    const { server, peer } = await meet({}, stubborn, noWindow);
    peer.request(1);
    expect(await peer.resetCode(1)).toBe(ErrorCode.ENHANCE_YOUR_CALM);
    expect(server.bounds).toEqual(["maxStreamWaitingBytes"]);
    expect(server.wire.budget.usedBytes).toBe(0);
  });

  test("loses streams when its connection holds too much, and when all connections do", async () => {
    const perConnection = await meet({ maxBufferedBytes: 50_000 }, stubborn, noWindow);
    perConnection.peer.request(1);
    expect(await perConnection.peer.resetCode(1)).toBe(ErrorCode.ENHANCE_YOUR_CALM);
    expect(perConnection.server.bounds).toEqual(["maxBufferedBytes"]);
    const global = await meet({ maxGlobalBufferedBytes: 50_000 }, stubborn, noWindow);
    global.peer.request(1);
    expect(await global.peer.resetCode(1)).toBe(ErrorCode.ENHANCE_YOUR_CALM);
    expect(global.server.bounds).toEqual(["maxGlobalBufferedBytes"]);
  });

  test("loses a stream that it gives no window to for too long, and no other", async () => {
    const { server, peer } = await meet(
      { stallTimeoutMs: 5_000 },
      (stream) => ({
        onData() {},
        onEnd() {
          stream.sendHeaders([[":status", "200"]]);
          stream.write(Buffer.from("waits"));
        },
        onClose() {},
      }),
      noWindow,
    );
    peer.request(1);
    await peer.settle();
    server.clock.advance(4_000);
    peer.request(3);
    await peer.settle();
    server.clock.advance(1_500);
    expect(await peer.resetCode(1)).toBe(ErrorCode.CANCEL);
    await peer.settle();
    expect(server.connections[0]?.openStreams).toBe(1);
    expect(server.bounds).toEqual(["stallTimeoutMs"]);
  });

  test("is cut when its socket takes nothing for too long, and what was held for it is freed", async () => {
    const unbounded = { maxStreamWaitingBytes: 100_000_000, maxBufferedBytes: 100_000_000 };
    const { server, peer } = await meet({ stallTimeoutMs: 5_000, ...unbounded }, (stream) => ({
      onData() {},
      onEnd() {
        stream.sendHeaders([[":status", "200"]]);
        // More than the system's socket buffers take.
        for (let count = 0; count < 400; count++) stream.write(large);
      },
      onClose() {},
    }));
    peer.send(rawFrame(FrameType.WINDOW_UPDATE, 0, 0, uint32(100_000_000)));
    peer.send(rawFrame(FrameType.SETTINGS, 0, 0, settingsPayload([Setting.INITIAL_WINDOW_SIZE, 100_000_000])));
    await peer.settle();
    peer.stopReading();
    peer.request(1);
    await expect.poll(() => server.wire.budget.usedBytes).toBeGreaterThan(1_000_000);
    const advanceUntilCut = (): unknown => {
      server.clock.advance(1_000);
      return server.ends;
    };
    const cut = [{ code: ErrorCode.ENHANCE_YOUR_CALM, reason: "the peer stopped reading" }];
    await expect.poll(advanceUntilCut, { timeout: 10_000 }).toEqual(cut);
    expect(server.wire.budget.usedBytes).toBe(0);
    expect(server.wire.connections).toBe(0);
  });

  test("that opens its window byte by byte pays for each", async () => {
    const { server, peer } = await meet({ windowUpdates: { burst: 100, perSecond: 1 } }, stubborn, noWindow);
    peer.request(1);
    await peer.resetCode(1);
    const patient = await meet(
      { windowUpdates: { burst: 100, perSecond: 1 } },
      (stream) => ({
        onData() {},
        onEnd() {
          stream.sendHeaders([[":status", "200"]]);
          stream.write(large);
        },
        onClose() {},
      }),
      noWindow,
    );
    patient.peer.request(1);
    await patient.peer.flood(rawFrame(FrameType.WINDOW_UPDATE, 0, 1, uint32(1)), 1_000);
    expect(await patient.peer.goawayCode()).toBe(ErrorCode.ENHANCE_YOUR_CALM);
    expect(server.ends).toEqual([]);
  });
});

describe("a peer that is slow", () => {
  test("to greet is sent away", async () => {
    const { server } = await meet();
    const silent = await RawPeer.silent(server.port);
    await expect.poll(() => server.connections.length).toBe(2);
    server.clock.advance(10_500);
    expect(await silent.goawayCode()).toBe(ErrorCode.ENHANCE_YOUR_CALM);
    expect(server.bounds).toContain("handshakeTimeoutMs");
  });

  test("to acknowledge SETTINGS is sent away", async () => {
    const { server, peer } = await meet();
    await peer.settle();
    server.clock.advance(10_500);
    expect(await peer.goawayCode()).toBe(ErrorCode.SETTINGS_TIMEOUT);
  });

  test("to end a header block is sent away", async () => {
    const { server, peer } = await meet({ keepAliveIntervalMs: 1_000_000_000, idleTimeoutMs: 1_000_000_000 });
    peer.send(rawFrame(FrameType.SETTINGS, Flag.ACK, 0));
    await peer.settle();
    peer.send(rawFrame(FrameType.HEADERS, 0, 1, headerBytes(getRoot)));
    const advanceUntilBound = (): unknown => {
      server.clock.advance(1_000);
      return server.bounds;
    };
    await expect.poll(advanceUntilBound).toEqual(["headersTimeoutMs"]);
    expect(await peer.goawayCode()).toBe(ErrorCode.ENHANCE_YOUR_CALM);
  });

  test("and silent is asked once, and then cut", async () => {
    const { server, peer } = await meet({ keepAliveIntervalMs: 5_000, keepAliveTimeoutMs: 2_000 });
    peer.send(rawFrame(FrameType.SETTINGS, Flag.ACK, 0));
    await peer.settle();
    server.clock.advance(5_500);
    await peer.waitFor((frame) => frame.type === FrameType.PING && frame.flags === 0);
    peer.send(rawFrame(FrameType.PING, Flag.ACK, 0, Buffer.from("hm-alive")));
    await peer.settle();
    server.clock.advance(5_500);
    server.clock.advance(2_500);
    await peer.closed;
    expect(server.bounds).toEqual(["keepAliveTimeoutMs"]);
  });

  test("and idle is drained", async () => {
    const { server, peer } = await meet({ idleTimeoutMs: 60_000, keepAliveIntervalMs: 1_000_000 });
    peer.send(rawFrame(FrameType.SETTINGS, Flag.ACK, 0));
    await peer.settle();
    server.clock.advance(60_500);
    expect(await peer.goawayCode()).toBe(ErrorCode.NO_ERROR);
    server.clock.advance(1_500);
    await peer.closed;
    await expect.poll(() => server.ends).toEqual([{ code: ErrorCode.NO_ERROR, reason: "drained" }]);
  });
});

describe("too much at once", () => {
  test("of streams is refused, safe to retry", async () => {
    const { server, peer } = await meet({ maxConcurrentStreams: 2 });
    for (const id of [1, 3, 5]) peer.request(id, false);
    expect(await peer.resetCode(5)).toBe(ErrorCode.REFUSED_STREAM);
    expect(server.connections[0]?.openStreams).toBe(2);
  });

  test.each([
    ["bytes", Array.from({ length: 40 }, (_, at) => [`x-${at}`, "y".repeat(900)] as const)],
    ["fields", Array.from({ length: 300 }, (_, at) => [`x-${at}`, ""] as const)],
  ])("of header %s is answered with 431, and the connection goes on", async (_what, fields) => {
    const { peer } = await meet();
    const block = headerBytes([...getRoot, ...fields]);
    peer.send(rawFrame(FrameType.HEADERS, Flag.END_STREAM, 1, block.subarray(0, 16_000)));
    peer.send(rawFrame(FrameType.CONTINUATION, Flag.END_HEADERS, 1, block.subarray(16_000)));
    const answer = await peer.waitForType(FrameType.HEADERS, 1);
    expect(answer.flags & Flag.END_STREAM).toBe(Flag.END_STREAM);
    expect(answer.payload.toString("latin1")).toContain("431");
    await peer.settle();
  });

  test("of DATA for a stream's window resets it; for the connection's ends it", async () => {
    const hoard: ServeOptions["onStream"] = () => ({ onData() {}, onEnd() {}, onClose() {} });
    const { peer } = await meet({ streamWindowBytes: 65_535, connectionWindowBytes: 100_000 }, hoard);
    const full = rawFrame(FrameType.DATA, 0, 1, Buffer.alloc(16_384));
    peer.request(1, false);
    peer.send(full, full, full, full);
    expect(await peer.resetCode(1)).toBe(ErrorCode.FLOW_CONTROL_ERROR);
    await peer.settle();
    const other = await meet({ streamWindowBytes: 200_000, connectionWindowBytes: 70_000 }, hoard);
    other.peer.request(1, false);
    other.peer.send(full, full, full, full, full);
    expect(await other.peer.goawayCode()).toBe(ErrorCode.FLOW_CONTROL_ERROR);
  });

  test("of a frame ends the connection", async () => {
    const { peer } = await meet();
    peer.request(1, false);
    peer.send(rawFrame(FrameType.DATA, 0, 1, Buffer.alloc(16_385)));
    expect(await peer.goawayCode()).toBe(ErrorCode.FRAME_SIZE_ERROR);
  });
});

describe("half-closed abuse", () => {
  test("a request that never ends does not outlive its response", async () => {
    const { server, peer } = await meet({}, (stream) => {
      stream.sendHeaders([[":status", "200"]], true);
      return { onData() {}, onEnd() {}, onClose() {} };
    });
    for (let id = 1; id < 100; id += 2) peer.request(id, false);
    expect(await peer.resetCode(99)).toBe(ErrorCode.NO_ERROR);
    expect(server.connections[0]?.openStreams).toBe(0);
    // What was under way then is dropped, and its window given back.
    peer.send(rawFrame(FrameType.DATA, 0, 99, Buffer.alloc(1_000)));
    await peer.settle();
  });

  test("DATA behind the end of a request resets the stream", async () => {
    const { peer } = await meet();
    peer.request(1, true);
    peer.send(rawFrame(FrameType.DATA, 0, 1, Buffer.alloc(10)));
    expect(await peer.resetCode(1)).toBe(ErrorCode.STREAM_CLOSED);
  });

  test("a socket that the peer half-closes ends the streams", async () => {
    const ends: string[] = [];
    const { server, peer } = await meet({}, () => ({
      onData() {},
      onEnd() {},
      onClose: (end) => void ends.push(end.kind),
    }));
    peer.request(1, false);
    await peer.settle();
    peer.endSocket();
    await peer.closed;
    await expect.poll(() => server.wire.connections).toBe(0);
    expect(ends).toEqual(["lost"]);
  });
});

test("whatever frames come in whatever order, a connection ends or goes on, and nothing of it is left", async () => {
  const block = headerBytes(getRoot);
  const server = await startTestServer((stream) => ({
    onData: (_bytes, start, end) => stream.consumed(end - start),
    onEnd() {
      stream.sendHeaders([[":status", "200"]]);
      stream.write(Buffer.alloc(100_000));
      stream.end([["x-end", "yes"]]);
    },
    onClose() {},
  }));
  opened.push(server);
  const streamId = fc.constantFrom(0, 1, 2, 3, 5, 7);
  const flags = fc.constantFrom(0, 1, 4, 5, 8, 0x20, 0x2d);
  const payload = fc.oneof(
    fc.uint8Array({ maxLength: 12 }),
    fc.constantFrom(block, uint32(1), uint32(0x7fff_ffff), uint32(8), Buffer.alloc(8)),
  );
  const anyFrame = fc.tuple(fc.nat(10), flags, streamId, payload).map((parts) => rawFrame(...parts));
  const likelyFrame = fc
    .tuple(fc.constantFrom(1, 3, 5, 7), fc.boolean())
    .chain(([id, end]) =>
      fc.constantFrom(
        rawFrame(FrameType.HEADERS, end ? Flag.END_HEADERS | Flag.END_STREAM : Flag.END_HEADERS, id, block),
        rawFrame(FrameType.DATA, end ? Flag.END_STREAM : 0, id, Buffer.alloc(50)),
        rawFrame(FrameType.WINDOW_UPDATE, 0, id, uint32(1_000)),
        rawFrame(FrameType.RST_STREAM, 0, id, uint32(ErrorCode.CANCEL)),
      ),
    );
  const sequence = fc.array(fc.oneof({ weight: 3, arbitrary: likelyFrame }, anyFrame), { minLength: 1, maxLength: 20 });
  await fc.assert(
    fc.asyncProperty(sequence, async (frames) => {
      const peer = await RawPeer.connect(server.port);
      peer.send(...frames);
      await Promise.race([peer.settle().catch(() => {}), peer.waitForType(FrameType.GOAWAY, 0).catch(() => {})]);
      peer.destroy();
      await expect.poll(() => server.wire.connections, { interval: 1 }).toBe(0);
      expect(server.wire.budget.usedBytes).toBe(0);
    }),
    { numRuns: 150 },
  );
});

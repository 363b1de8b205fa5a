import { once } from "node:events";
import { connect as http2Connect } from "node:http2";
import { type Socket, connect } from "node:net";
import { text } from "node:stream/consumers";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { ManualClock } from "#kernel/clock.ts";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { FinishReason } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { type DoorServer, startDoorServer, testKey } from "./door-server.ts";

let server: DoorServer;
let clock: ManualClock;

beforeEach(async () => {
  clock = new ManualClock();
  server = await startDoorServer({ clock, maxBodyBytes: 1_000 });
});
afterEach(() => server.close());

async function open(): Promise<Socket> {
  const socket = connect(server.port, "127.0.0.1");
  socket.setEncoding("utf8");
  await once(socket, "connect");
  return socket;
}

const head = (extra: string): string =>
  `POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${testKey}\r\ncontent-type: application/json\r\n${extra}\r\n`;

/** Reads until `pattern` has come. */
function until(socket: Socket, pattern: RegExp): Promise<string> {
  return new Promise((resolve) => {
    let seen = "";
    const look = (chunk: string): void => {
      seen += chunk;
      if (!pattern.test(seen)) return;
      socket.off("data", look);
      resolve(seen);
    };
    socket.on("data", look);
  });
}

const body = JSON.stringify({ model: "m", messages: [{ role: "user", content: "Hi" }], stream: true });
const tooLarge = /HTTP\/1\.1 413 [\s\S]*request_too_large[\s\S]*\}\}/;

describe("a body that is too large", () => {
  test("is refused before any of it came when it says so", async () => {
    const socket = await open();
    socket.write(head("content-length: 99999999999\r\n"));
    expect(await until(socket, tooLarge)).toContain("1000 bytes");
    socket.destroy();
  });

  test("is refused when its chunks turn out so", async () => {
    const socket = await open();
    socket.write(head("transfer-encoding: chunked\r\n"));
    for (let i = 0; i < 3; i++) socket.write(`200\r\n${"x".repeat(0x200)}\r\n`);
    await until(socket, tooLarge);
    socket.destroy();
  });

  test("is refused when the client asks first", async () => {
    const socket = await open();
    socket.write(head("content-length: 5000000\r\nexpect: 100-continue\r\n"));
    expect(await until(socket, tooLarge)).not.toContain("100 Continue");
    socket.destroy();
  });

  async function sendAll(socket: Socket, headers: string): Promise<void> {
    const size = 4_000_000;
    socket.write(head(`content-length: ${size}\r\n${headers}`));
    for (let sent = 0; sent < size; sent += 100_000) {
      if (!socket.write("x".repeat(100_000))) await once(socket, "drain");
    }
  }

  test("reaches its end, and the connection serves the next request", async () => {
    const socket = await open();
    const answered = until(socket, tooLarge);
    await sendAll(socket, "");
    await answered;
    socket.write("GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n");
    await until(socket, /HTTP\/1\.1 401 /);
    socket.destroy();
  });

  test("causes no reset under a client that reads only after it sent all, and closes", async () => {
    const socket = await open();
    await sendAll(socket, "connection: close\r\n");
    expect(await text(socket)).toMatch(tooLarge);
  });

  test("cannot be sent for ever", async () => {
    const socket = await open();
    socket.on("error", () => {});
    socket.write(head("content-length: 99999999999\r\n"));
    await until(socket, tooLarge);
    const closed = once(socket, "close");
    clock.advance(5_000);
    await closed;
  });

  test("gets 413 over HTTP/2 too", async () => {
    const session = http2Connect(server.url);
    const stream = session.request({
      ":method": "POST",
      ":path": "/v1/embeddings",
      authorization: `Bearer ${testKey}`,
    });
    stream.on("error", () => {});
    const headers = once(stream, "response");
    stream.write("x".repeat(2_000));
    expect((await headers)[0]).toMatchObject({ ":status": 413 });
    expect(await text(stream)).toContain("request_too_large");
    stream.end();
    session.destroy();
  });
});

describe("a client that", () => {
  test("sends its body too slowly gets 408", async () => {
    const socket = await open();
    socket.write(head("content-length: 500\r\n") + "{");
    const request = new Promise<void>((resolve) => {
      const look = (): void => void (clock.pendingTimers > 0 ? resolve() : setImmediate(look));
      look();
    });
    await request;
    clock.advance(60_000);
    await until(socket, /HTTP\/1\.1 408 [\s\S]*request_timeout/);
    socket.destroy();
  });

  test("smuggles line breaks in its request id gets them not back", async () => {
    const socket = await open();
    socket.write("GET /v1/models HTTP/1.1\r\nhost: x\r\nx-request-id: a\rset-cookie: b\r\n\r\n");
    const answer = await until(socket, /\r\n\r\n/);
    expect(answer).not.toMatch(/set-cookie/i);
    socket.destroy();
  });

  test("goes away ends its call at once, over HTTP/1.1 and HTTP/2", async () => {
    for (const go of [goAwayHttp1, goAwayHttp2]) {
      const started = Promise.withResolvers<void>();
      const aborted = Promise.withResolvers<void>();
      server.calls.generateScript = async function* (_request, { signal }) {
        signal.addEventListener("abort", () => aborted.resolve());
        yield { case: "started", value: { model: "pocket" } };
        started.resolve();
        await aborted.promise;
        throw new MeshError(Reason.CANCELLED, "The caller went away.");
      };
      await go(started.promise);
      await aborted.promise;
    }
  });

  async function goAwayHttp1(started: Promise<void>): Promise<void> {
    const socket = await open();
    socket.write(head(`content-length: ${body.length}\r\n`) + body);
    await started;
    socket.destroy();
  }

  async function goAwayHttp2(started: Promise<void>): Promise<void> {
    const session = http2Connect(server.url);
    const stream = session.request({
      ":method": "POST",
      ":path": "/v1/chat/completions",
      authorization: `Bearer ${testKey}`,
    });
    stream.on("error", () => {});
    stream.end(body);
    await started;
    stream.close(8);
    session.close();
  }

  test("does not read holds the call back, and loses it after a minute", async () => {
    let produced = 0;
    const aborted = Promise.withResolvers<void>();
    server.calls.generateScript = async function* (_request, { signal }) {
      signal.addEventListener("abort", () => aborted.resolve());
      for (; !signal.aborted; produced++) yield { case: "delta", value: { text: "x".repeat(10_000) } };
    };
    const socket = await open();
    socket.on("error", () => {});
    socket.write(head(`content-length: ${body.length}\r\n`) + body);
    await once(socket, "data");
    socket.pause();
    let before = -1;
    // Full means that a hundred turns brought nothing more.
    while (produced !== before) {
      before = produced;
      for (let turn = 0; turn < 100; turn++) await new Promise(setImmediate);
    }
    expect(produced).toBeLessThan(2_000);
    clock.advance(60_000);
    await aborted.promise;
    expect(await server.metrics.text()).toContain('reason="stalled_client"');
    socket.destroy();
  });
});

describe("over HTTP/2", () => {
  test("a stream has the same events as over HTTP/1.1", async () => {
    server.calls.generateScript = async function* () {
      yield { case: "started", value: { model: "pocket" } };
      yield { case: "delta", value: { text: "Hi", finishReason: FinishReason.STOP } };
      yield { case: "finished", value: { finishReasons: [FinishReason.STOP] } };
    };
    const session = http2Connect(server.url);
    const headers = { authorization: `Bearer ${testKey}`, "x-request-id": "one", "content-type": "application/json" };
    const stream = session.request({ ":method": "POST", ":path": "/v1/chat/completions", ...headers });
    stream.end(body);
    const [responseHeaders] = await once(stream, "response");
    expect(responseHeaders).toMatchObject({
      ":status": 200,
      "x-request-id": "one",
      "content-type": "text/event-stream; charset=utf-8",
    });
    const over2 = await text(stream);
    session.close();
    const over1 = await (await fetch(`${server.url}/v1/chat/completions`, { method: "POST", headers, body })).text();
    expect(over2).toBe(over1);
  });

  test("an error before the body's end leaves the connection usable", async () => {
    const session = http2Connect(server.url);
    const statusOf = async (path: string): Promise<unknown> => {
      const stream = session.request({ ":method": "POST", ":path": path });
      stream.on("error", () => {});
      stream.end("{}");
      const [headers] = await once(stream, "response");
      stream.resume();
      return (headers as Record<string, unknown>)[":status"];
    };
    expect([await statusOf("/nope"), await statusOf("/v1/embeddings")]).toEqual([404, 401]);
    session.close();
  });
});

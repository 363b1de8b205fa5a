import { once } from "node:events";
import { type AddressInfo, createServer } from "node:net";
import { createServer as createTlsServer } from "node:tls";
import { afterEach, describe, expect, test } from "vitest";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { ManualClock, systemClock } from "#kernel/clock.ts";
import { grpcOkTrailers, grpcRefusal, grpcResponseHeaders } from "#kernel/grpc-messages.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { testCertificate, testKey } from "#kernel/test-certificate.ts";
import { type HeaderList, Wire, type WireStream, serveConnection } from "#kernel/wire/index.ts";
import { createWireLinkTransport } from "./wire-transport.ts";

const closers: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

/** An agent that answers each stream as `serve` says. */
async function listen(serve: (stream: WireStream, headers: HeaderList) => void, secure = false): Promise<number> {
  const wire = new Wire({ clock: systemClock });
  const onStream = (stream: WireStream, headers: HeaderList) => {
    serve(stream, headers);
    return { onData() {}, onEnd() {}, onClose() {} };
  };
  const server = secure
    ? createTlsServer({ cert: testCertificate, key: testKey, ALPNProtocols: ["h2"] })
    : createServer();
  server.on(secure ? "secureConnection" : "connection", (socket) =>
    serveConnection(wire, socket, new Uint8Array(0), { onStream }),
  );
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  closers.push(async () => {
    server.close();
    await once(server, "close");
    expect(wire.connections).toBe(0);
  });
  return (server.address() as AddressInfo).port;
}

function open(port: number, options: { ca?: Buffer; connectTimeoutMs?: number } = {}) {
  const messages: string[] = [];
  const ended = Promise.withResolvers<Error | undefined>();
  const transport = createWireLinkTransport({ clock: systemClock, connectTimeoutMs: 5_000, ...options });
  const stream = transport(
    { address: `127.0.0.1:${port}`, token: "secret" },
    {
      onMessage: (bytes, start, end) => void messages.push(bytes.toString("latin1", start, end)),
      onWritable() {},
      onEnd: ended.resolve,
    },
  );
  closers.push(() => stream.close());
  return { stream, messages, ended: ended.promise };
}

function say(stream: WireStream, text: string): void {
  const bytes = Buffer.from(text);
  stream.writeMessage(bytes, 0, bytes.length);
}

describe("the link's transport", () => {
  test.each([
    ["in cleartext", false],
    ["over TLS, trusting the CA it was given", true],
  ])("opens the method with the token and gets messages and the end %s", async (_how, secure) => {
    const seen: (string | undefined)[] = [];
    const port = await listen((stream, headers) => {
      seen.push(headers.path, headers.scheme, headers.get("authorization"), headers.get("te"));
      stream.sendHeaders(grpcResponseHeaders);
      say(stream, "one");
      say(stream, "two");
      stream.end(grpcOkTrailers);
    }, secure);
    const { messages, ended } = open(port, secure ? { ca: Buffer.from(testCertificate) } : {});
    expect(await ended).toBeUndefined();
    expect(messages).toEqual(["one", "two"]);
    const scheme = secure ? "https" : "http";
    expect(seen).toEqual(["/helixmesh.link.v1.LinkService/Connect", scheme, "Bearer secret", "trailers"]);
  });

  test("does not open a link over TLS to an agent that its CA did not sign", async () => {
    const port = await listen(() => {}, true);
    const { ended } = open(port, { ca: Buffer.from("") });
    expect((await ended)?.message).toMatch(/cannot open HTTP\/2/);
  });

  test("tells the fault that an agent ends the stream with", async () => {
    const refusal = new MeshError(Reason.INVALID_API_KEY, "The link token is wrong.");
    const port = await listen((stream) => stream.sendHeaders(grpcRefusal(refusal), true));
    expect(await open(port).ended).toMatchObject({
      reason: Reason.INVALID_API_KEY,
      message: "The link token is wrong.",
    });
  });

  test.each<[string, (stream: WireStream) => void, RegExp]>([
    ["is no gRPC", (stream) => stream.sendHeaders([[":status", "404"]], true), /HTTP 404/],
    ["is reset", (stream) => stream.reset(8), /reset by peer/],
    [
      "holds garbage",
      (stream) => {
        stream.sendHeaders(grpcResponseHeaders);
        stream.write(Buffer.from([9, 0, 0, 0, 0]));
      },
      /flags 0x9/,
    ],
    [
      "is compressed in a way that it does not name",
      (stream) => {
        stream.sendHeaders(grpcResponseHeaders);
        stream.write(Buffer.from([1, 0, 0, 0, 0]));
      },
      /flagged as compressed/,
    ],
  ])("ends when the answer %s", async (_what, serve, message) => {
    const port = await listen(serve);
    expect((await open(port).ended)?.message).toMatch(message);
  });

  test("ends at once when nobody listens, or its connection breaks", async () => {
    const server = createServer((socket) => socket.destroy());
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    const { port } = server.address() as AddressInfo;
    expect(await open(port).ended).toBeInstanceOf(Error);
    server.close();
    await once(server, "close");
    expect((await open(port).ended)?.message).toMatch(/ECONNREFUSED/);
  });

  test("that is closed before it is open leaves nothing behind", async () => {
    const accepted = Promise.withResolvers<void>();
    const server = createServer((socket) => {
      accepted.resolve();
      socket.on("close", () => server.close());
      socket.resume();
    });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    const clock = new ManualClock();
    const transport = createWireLinkTransport({ clock, connectTimeoutMs: 5_000 });
    const { port } = server.address() as AddressInfo;
    const ends: unknown[] = [];
    const events = { onMessage() {}, onWritable() {}, onEnd: (cause?: Error) => void ends.push(cause) };
    const stream = transport({ address: `127.0.0.1:${port}`, token: "" }, events);
    await accepted.promise;
    stream.close();
    await once(server, "close");
    expect(ends).toEqual([undefined]);
    expect(clock.pendingTimers).toBe(0);
  });
});

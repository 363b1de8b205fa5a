import { once } from "node:events";
import {
  type ClientHttp2Session,
  type IncomingHttpHeaders,
  type OutgoingHttpHeaders,
  connect as connectHttp2,
  createSecureServer,
  createServer as createHttp2Server,
} from "node:http2";
import { type AddressInfo, type Server, createServer } from "node:net";
import { createServer as createTlsServer } from "node:tls";
import { Client, type ServiceError, credentials } from "@grpc/grpc-js";
import fc from "fast-check";
import { afterEach, describe, expect, test } from "vitest";
import { systemClock } from "#kernel/clock.ts";
import type { NodeHandler } from "#kernel/node-handler.ts";
import { testCertificate, testKey } from "#kernel/test-certificate.ts";
import {
  type ClientConnection,
  type HeaderFields,
  type HeaderList,
  type StreamEnd,
  type StreamListener,
  Wire,
  type WireStream,
  connectWire,
  encodeBlock,
  serveConnection,
} from "#kernel/wire/index.ts";
import { wireExchange } from "#kernel/wire-exchange.ts";

const closers: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

const nothingRead = new Uint8Array(0);

async function listen(server: Server): Promise<number> {
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return (server.address() as AddressInfo).port;
}

/** A server of ours that makes a request of node:http of every stream. */
async function startExchange(handler: NodeHandler, secure = false): Promise<number> {
  const wire = new Wire({ clock: systemClock });
  const onStream = (stream: WireStream, headers: HeaderList): StreamListener => wireExchange(stream, headers, handler);
  const server = secure
    ? createTlsServer({ cert: testCertificate, key: testKey, ALPNProtocols: ["h2"] }, (socket) => {
        serveConnection(wire, socket, nothingRead, { onStream });
      })
    : createServer((socket) => void serveConnection(wire, socket, nothingRead, { onStream }));
  closers.push(async () => {
    server.close();
    await once(server, "close");
    expect(wire.connections).toBe(0);
  });
  return listen(server);
}

function nodeClient(port: number, secure = false): ClientHttp2Session {
  const session = secure
    ? connectHttp2(`https://localhost:${port}`, { ca: testCertificate })
    : connectHttp2(`http://127.0.0.1:${port}`);
  closers.push(async () => {
    session.close();
    if (!session.destroyed) await once(session, "close");
  });
  return session;
}

interface Answer {
  readonly headers: IncomingHttpHeaders;
  readonly body: Buffer;
  readonly trailers: IncomingHttpHeaders;
}

async function fetchNode(session: ClientHttp2Session, headers: OutgoingHttpHeaders, body: Uint8Array): Promise<Answer> {
  const stream = session.request({ ":method": "POST", ...headers });
  let trailers: IncomingHttpHeaders = {};
  stream.on("trailers", (received) => (trailers = received));
  let answered: IncomingHttpHeaders = {};
  stream.on("response", (received) => (answered = received));
  stream.end(body);
  const parts: Buffer[] = [];
  for await (const part of stream) parts.push(part as Buffer);
  return { headers: answered, body: Buffer.concat(parts), trailers };
}

interface WireAnswer {
  headers: HeaderList | undefined;
  trailers: HeaderList | undefined;
  body: Buffer;
  end: StreamEnd;
}

function fetchWire(connection: ClientConnection, fields: HeaderFields, body: Uint8Array): Promise<WireAnswer> {
  return new Promise((resolve, reject) => {
    const parts: Buffer[] = [];
    let headers: HeaderList | undefined;
    let trailers: HeaderList | undefined;
    const stream = connection.request(fields, {
      onHeaders: (list) => void (headers = list),
      onData(bytes, start, end) {
        parts.push(Buffer.from(bytes.subarray(start, end)));
        stream?.consumed(end - start);
      },
      onEnd: (list) => void (trailers = list),
      onClose: (end) => resolve({ headers, trailers, body: Buffer.concat(parts), end }),
    });
    if (!stream) return reject(new Error("no stream to be had"));
    stream.write(body);
    stream.end();
  });
}

const echo: NodeHandler = (request, response) => {
  for (const [name, value] of Object.entries(request.headers)) {
    if (name.startsWith("x-") && typeof value === "string") response.setHeader(name, value);
  }
  response.on("drain", () => request.resume());
  request.on("data", (chunk: Buffer) => {
    if (!response.write(chunk)) request.pause();
  });
  request.on("end", () => {
    response.addTrailers({ "x-end": "yes" });
    response.end();
  });
};

const headerValue = fc
  .string({ unit: fc.integer({ min: 0x20, max: 0x7e }).map((code) => String.fromCharCode(code)), maxLength: 200 })
  .map((text) => text.trim());
const customHeaders = fc.dictionary(fc.stringMatching(/^x-[a-z0-9]{1,12}$/), headerValue, { maxKeys: 8 });

const large = Buffer.alloc(3_000_000, "helixmesh");

describe.each([
  ["in plain text", false],
  ["over TLS", true],
])("a node:http2 client %s", (_how, secure) => {
  test("gets back from our server what it sent, three megabytes and trailers", async () => {
    const port = await startExchange(echo, secure);
    const answer = await fetchNode(nodeClient(port, secure), { ":path": "/echo", "x-a": "1" }, large);
    expect(answer.headers).toMatchObject({ ":status": 200, "x-a": "1" });
    expect(answer.body.equals(large)).toBe(true);
    expect(answer.trailers).toMatchObject({ "x-end": "yes" });
  });

  test("may send its headers in any of its encodings", async () => {
    const port = await startExchange(echo, secure);
    const session = nodeClient(port, secure);
    await fc.assert(
      fc.asyncProperty(customHeaders, async (headers) => {
        const answer = await fetchNode(session, { ":path": "/", ...headers }, Buffer.from("x"));
        expect(answer.headers).toMatchObject(headers);
      }),
      { numRuns: 60 },
    );
  });
});

describe("an exchange over a stream", () => {
  test("may be answered before its request has ended", async () => {
    const port = await startExchange((_, response) => {
      response.writeHead(413, { "x-a": "early" });
      response.end();
    });
    const session = nodeClient(port);
    for (let count = 0; count < 5; count++) {
      const stream = session.request({ ":method": "POST", ":path": "/" });
      stream.write(large.subarray(0, 200_000));
      const [headers] = (await once(stream, "response")) as [IncomingHttpHeaders];
      expect(headers).toMatchObject({ ":status": 413, "x-a": "early" });
      stream.resume();
      await once(stream, "close");
      expect(stream.rstCode).toBe(0);
    }
  });

  test("closes when its stream is reset", async () => {
    const started = Promise.withResolvers<void>();
    const closed = Promise.withResolvers<boolean>();
    const port = await startExchange((_, response) => {
      response.on("close", () => closed.resolve(response.closed));
      started.resolve();
    });
    const stream = nodeClient(port).request({ ":path": "/" });
    stream.on("error", () => {
      // Its own cancellation.
    });
    await started.promise;
    stream.close(8);
    expect(await closed.promise).toBe(true);
  });

  test("has a body that ends with an error when its connection is lost", async () => {
    const failed = Promise.withResolvers<unknown>();
    const port = await startExchange((request) => {
      request.on("error", (error) => failed.resolve(error)).on("data", () => session.destroy());
    });
    const session = nodeClient(port);
    const stream = session.request({ ":method": "POST", ":path": "/" });
    stream.on("error", () => {
      // Its own doing.
    });
    stream.write("x");
    expect(await failed.promise).toMatchObject({ message: expect.stringContaining("went away") });
  });

  test("refuses fields that HTTP forbids where they are set", async () => {
    const refusals: unknown[] = [];
    const port = await startExchange((_, response) => {
      for (const [name, value] of [
        ["x a", "1"],
        ["x-a", "1\n2"],
      ] as const) {
        try {
          response.setHeader(name, value);
        } catch (error) {
          refusals.push(error);
        }
      }
      response.end();
    });
    await fetchNode(nodeClient(port), { ":path": "/" }, Buffer.from("x"));
    expect(refusals).toMatchObject([{ code: "ERR_INVALID_HTTP_TOKEN" }, { code: "ERR_INVALID_CHAR" }]);
  });
});

describe("our client against a node:http2 server", () => {
  async function startNode(secure: boolean): Promise<number> {
    const server = secure ? createSecureServer({ cert: testCertificate, key: testKey }) : createHttp2Server();
    server.on("stream", (stream, headers) => {
      const custom = Object.fromEntries(Object.entries(headers).filter(([name]) => name.startsWith("x-")));
      stream.respond({ ":status": 200, ...custom }, { waitForTrailers: true });
      stream.on("wantTrailers", () => stream.sendTrailers({ "x-end": "yes" }));
      stream.pipe(stream);
    });
    closers.push(() => void server.close());
    return listen(server);
  }

  async function connectOurs(port: number, secure: boolean): Promise<ClientConnection> {
    const wire = new Wire({ clock: systemClock });
    const tls = secure ? { ca: testCertificate, servername: "localhost" } : undefined;
    const connection = await connectWire(wire, { host: "127.0.0.1", port, tls });
    closers.push(() => connection.destroy());
    return connection;
  }

  const post = (headers: HeaderFields): HeaderFields => [
    [":method", "POST"],
    [":scheme", "http"],
    [":path", "/echo"],
    [":authority", "localhost"],
    ...headers,
  ];

  test.each([
    ["in plain text", false],
    ["over TLS", true],
  ])("gets back what it sent %s, three megabytes and trailers", async (_how, secure) => {
    const connection = await connectOurs(await startNode(secure), secure);
    // Larger than what may wait at a stream, in one write: only a second one would be refused.
    const answer = await fetchWire(connection, post([["x-a", "1"]]), large);
    expect(answer.end).toEqual({ kind: "complete" });
    expect(answer.headers?.status).toBe("200");
    expect(answer.headers?.get("x-a")).toBe("1");
    expect(answer.body.equals(large)).toBe(true);
    expect(answer.trailers?.get("x-end")).toBe("yes");
    expect(connection.openStreams).toBe(0);
  });

  test("is understood whatever its headers are", async () => {
    const connection = await connectOurs(await startNode(false), false);
    await fc.assert(
      fc.asyncProperty(customHeaders, async (headers) => {
        const answer = await fetchWire(connection, post(Object.entries(headers)), Buffer.from("x"));
        for (const [name, value] of Object.entries(headers)) expect(answer.headers?.get(name)).toBe(value);
      }),
      { numRuns: 60 },
    );
  });

  test("refuses a TLS server that does not offer h2", async () => {
    const server = createTlsServer({ cert: testCertificate, key: testKey, ALPNProtocols: ["http/1.1"] });
    closers.push(() => void server.close());
    await expect(connectOurs(await listen(server), true)).rejects.toThrow(/cannot open HTTP\/2/);
  });
});

describe("a @grpc/grpc-js client", () => {
  const grpcHeaders = encodeBlock([
    [":status", "200"],
    ["content-type", "application/grpc"],
  ]);
  const grpcOk = encodeBlock([["grpc-status", "0"]]);

  /** Echoes every message of a call, one DATA frame each. */
  function grpcEcho(stream: WireStream, headers: HeaderList): StreamListener {
    let pending = Buffer.alloc(0);
    if (headers.path === "/echo.Echo/Refuse") {
      const refusal: HeaderFields = [
        [":status", "200"],
        ["content-type", "application/grpc"],
        ["grpc-status", "8"],
        ["grpc-message", "slow down"],
      ];
      stream.sendHeaders(refusal, true);
      return { onData() {}, onEnd() {}, onClose() {} };
    }
    stream.sendHeaders(grpcHeaders);
    return {
      onData(bytes, start, end) {
        pending = Buffer.concat([pending, bytes.subarray(start, end)]);
        stream.consumed(end - start);
        while (pending.length >= 5 && pending.length >= 5 + pending.readUInt32BE(1)) {
          const next = 5 + pending.readUInt32BE(1);
          stream.writeMessage(pending, 5, next);
          pending = pending.subarray(next);
        }
      },
      onEnd: () => stream.end(grpcOk),
      onClose() {},
    };
  }

  const bytes = (message: Buffer): Buffer => message;

  async function startGrpc(): Promise<Client> {
    const wire = new Wire({ clock: systemClock });
    const server = createServer((socket) => void serveConnection(wire, socket, nothingRead, { onStream: grpcEcho }));
    closers.push(async () => {
      server.close();
      await once(server, "close");
    });
    const client = new Client(`127.0.0.1:${await listen(server)}`, credentials.createInsecure());
    closers.push(() => client.close());
    return client;
  }

  test("gets unary answers, small and of two megabytes", async () => {
    const client = await startGrpc();
    for (const message of [Buffer.from("hello"), large.subarray(0, 2_000_000)]) {
      const answer = await new Promise<Buffer | undefined>((resolve, reject) => {
        client.makeUnaryRequest("/echo.Echo/Say", bytes, bytes, message, (error: ServiceError | null, value?: Buffer) =>
          error ? reject(error) : resolve(value),
        );
      });
      expect(answer?.equals(message)).toBe(true);
    }
  });

  test("gets the status of a call that ends before its request does", async () => {
    const client = await startGrpc();
    const stream = client.makeBidiStreamRequest("/echo.Echo/Refuse", bytes, bytes);
    stream.on("error", () => {
      // The status, once more.
    });
    stream.resume();
    stream.write(large.subarray(0, 200_000));
    // Not `once`, which rejects for the error that the same status makes.
    const status = await new Promise<unknown>((resolve) => stream.on("status", resolve));
    expect(status).toMatchObject({ code: 8, details: "slow down" });
  });

  test("streams both ways in order, many calls on one connection", async () => {
    const client = await startGrpc();
    const call = async (index: number): Promise<void> => {
      const stream = client.makeBidiStreamRequest("/echo.Echo/Chat", bytes, bytes);
      const seen: string[] = [];
      stream.on("data", (message: Buffer) => seen.push(message.toString()));
      const sent = Array.from({ length: 50 }, (_, at) => `${index}:${at}`);
      for (const message of sent) stream.write(Buffer.from(message));
      stream.end();
      const [status] = (await once(stream, "status")) as [{ code: number }];
      expect(status.code).toBe(0);
      expect(seen).toEqual(sent);
    };
    await Promise.all(Array.from({ length: 40 }, (_, index) => call(index)));
  });
});

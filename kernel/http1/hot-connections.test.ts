import { once } from "node:events";
import { Agent, request } from "node:http";
import { type Socket, connect } from "node:net";
import { text } from "node:stream/consumers";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { HotResponse } from "#kernel/http1/index.ts";
import { silentLogger } from "#kernel/log.ts";
import { Metrics } from "#kernel/metrics.ts";
import { type RpcServer, startRpcServer } from "#kernel/rpc-server.ts";

let server: RpcServer;
/** Bodies that the hot path got. */
let taken: string[];
/** Requests that node:http got. */
let handedOver: string[];
/** Answers that nobody has sent yet, when `hold` is set. */
let held: HotResponse[];
let hold: boolean;
let gone: number;
/** The hot path answers before the body has come. */
let early: boolean;

beforeEach(async () => {
  taken = [];
  handedOver = [];
  held = [];
  hold = false;
  gone = 0;
  early = false;
  server = await startRpcServer({
    host: "127.0.0.1",
    port: 0,
    routes() {},
    services: [],
    health: () => true,
    hotPath(head, response) {
      if (head.target !== "/hot") return undefined;
      response.on("close", () => (gone += 1));
      if (early) setImmediate(() => answer(response, "early"));
      return (body) => {
        const words = body.toString();
        taken.push(words.length > 100 ? String(words.length) : words);
        if (hold) held.push(response);
        else answer(response, `hot ${taken.length}`);
      };
    },
    fallback(request, response) {
      handedOver.push(`${request.method} ${request.url}`);
      request.resume();
      request.on("end", () => response.end("slow"));
    },
    maxBodyBytes: 10_000_000,
    logger: silentLogger,
    metrics: new Metrics("test"),
  });
});
afterEach(() => server.close());

function answer(response: HotResponse, body: string): void {
  response.writeHead(200, { "content-length": String(Buffer.byteLength(body)) });
  response.end(body);
}

async function open(): Promise<Socket> {
  const socket = connect(server.port, "127.0.0.1");
  socket.setEncoding("utf8");
  socket.on("error", () => {});
  await once(socket, "connect");
  return socket;
}

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

const post = (body: string, extra = "", target = "/hot"): string =>
  `POST ${target} HTTP/1.1\r\nHost: x\r\nContent-Length: ${body.length}\r\n${extra}\r\n${body}`;

describe("the hot path", () => {
  test("serves one request after another on a connection", async () => {
    const agent = new Agent({ keepAlive: true, maxSockets: 1 });
    for (const body of ["a", "b", "c"]) {
      const outgoing = request({ port: server.port, method: "POST", path: "/hot", agent }).setHeader(
        "content-length",
        1,
      );
      outgoing.end(body);
      const [response] = (await once(outgoing, "response")) as [NodeJS.ReadableStream];
      await text(response);
    }
    agent.destroy();
    expect(taken).toEqual(["a", "b", "c"]);
    expect(handedOver).toEqual([]);
  });

  test("answers with fetch's client, which keeps the connection", async () => {
    const call = (): Promise<Response> => fetch(`http://127.0.0.1:${server.port}/hot`, { method: "POST", body: "é" });
    expect([await (await call()).text(), await (await call()).text()]).toEqual(["hot 1", "hot 2"]);
    expect((await call()).headers.get("keep-alive")).toBe("timeout=75");
    expect(handedOver).toEqual([]);
  });

  test("answers pipelined requests in order, each after the one before", async () => {
    hold = true;
    const socket = await open();
    socket.write(post("one") + post("two") + post("three").slice(0, -2));
    for (const [index, body] of ["first", "second", "third"].entries()) {
      while (held.length <= index) await new Promise(setImmediate);
      expect(taken).toHaveLength(index + 1);
      const answered = until(socket, new RegExp(`${body}$`));
      answer(held[index] as HotResponse, body);
      await answered;
      if (index === 1) socket.write("ee");
    }
    expect(taken).toEqual(["one", "two", "three"]);
    socket.destroy();
  });

  test("gathers a body that comes in pieces, and one of several megabytes", async () => {
    const socket = await open();
    const whole = post("in pieces");
    const bodyStart = whole.indexOf("in pieces");
    socket.write(whole.slice(0, bodyStart));
    for (const unit of whole.slice(bodyStart)) {
      socket.write(unit);
      await new Promise(setImmediate);
    }
    await until(socket, /hot 1$/);
    socket.write(post("x".repeat(5_000_000)));
    await until(socket, /hot 2$/);
    expect(taken).toEqual(["in pieces", "5000000"]);
    socket.destroy();
  });

  test("closes after the answer when the client asks for it", async () => {
    const socket = await open();
    socket.write(post("last", "Connection: close\r\n"));
    expect(await text(socket)).toMatch(/connection: close\r\n[\s\S]*hot 1$/);
  });

  test("tells when the client leaves before its answer, and not after it", async () => {
    hold = true;
    const socket = await open();
    socket.write(post("a"));
    while (held.length === 0) await new Promise(setImmediate);
    socket.end();
    await expect.poll(() => gone).toBe(1);
    hold = false;
    const other = await open();
    other.write(post("b"));
    await until(other, /hot 2$/);
    other.destroy();
    while (server.connections() > 0) await new Promise(setImmediate);
    expect(gone).toBe(1);
  });

  test("ends a connection that it answered before the body's end, without a reset", async () => {
    early = true;
    const socket = await open();
    socket.write(post("x".repeat(3_000_000)).slice(0, 1_000_000));
    expect(await until(socket, /early$/)).toContain("connection: close");
    for (let piece = 0; piece < 10; piece++) socket.write("x".repeat(100_000));
    socket.end();
    await once(socket, "close");
    expect(taken).toEqual([]);
  });

  test("is drained: idle connections close, an open answer is still sent, and its connection with it", async () => {
    hold = true;
    const idle = await open();
    idle.write(post("a"));
    while (held.length === 0) await new Promise(setImmediate);
    answer(held[0] as HotResponse, "done");
    await until(idle, /done$/);
    const busy = await open();
    busy.write(post("b"));
    while (held.length === 1) await new Promise(setImmediate);
    const idleClosed = once(idle, "close");
    const drained = server.drain(10_000);
    await idleClosed;
    const rest = text(busy);
    answer(held[1] as HotResponse, "still");
    expect(await rest).toMatch(/connection: close[\s\S]*still$/);
    await drained;
  });

  test("answers in a drain what a client sent that had been promised the connection, and then closes it", async () => {
    hold = true;
    const socket = await open();
    socket.write(post("a"));
    while (held.length === 0) await new Promise(setImmediate);
    held[0]?.writeHead(200, {});
    held[0]?.write("begun");
    expect(await until(socket, /begun/)).toContain("connection: keep-alive");
    const drained = server.drain(10_000);
    const rest = text(socket);
    held[0]?.end("over");
    socket.write(post("b"));
    while (held.length === 1) await new Promise(setImmediate);
    answer(held[1] as HotResponse, "next");
    expect(await rest).toMatch(/over[\s\S]*connection: close[\s\S]*next$/);
    await drained;
  });

  test("answers in a drain what came on a connection that was idle a moment ago", async () => {
    const socket = await open();
    socket.write(post("a"));
    await until(socket, /hot 1$/);
    const drained = server.drain(10_000);
    const rest = text(socket);
    socket.write(post("b"));
    expect(await rest).toMatch(/connection: close[\s\S]*hot 2$/);
    await drained;
  });

  test("sends no header that would split the answer", async () => {
    hold = true;
    const socket = await open();
    socket.write(post("a"));
    while (held.length === 0) await new Promise(setImmediate);
    expect(() => held[0]?.writeHead(200, { "x-a": "b\r\nset-cookie: c" })).toThrow(TypeError);
    socket.destroy();
  });
});

describe("node:http gets the connection", () => {
  test.each([
    ["another path", post("a", "", "/other")],
    ["a query", post("a", "", "/hot?x=1")],
    ["another method", "GET /hot HTTP/1.1\r\nHost: x\r\n\r\n"],
    ["a body in chunks", "POST /hot HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"],
    ["expect", post("a", "Expect: 100-continue\r\n")],
    ["an empty body", post("")],
    ["HTTP/1.0", post("a", "Connection: keep-alive\r\n").replace("HTTP/1.1", "HTTP/1.0")],
    ["a field twice", post("a", "X-A: 1\r\nX-A: 2\r\n")],
    ["a connection option", post("a", "Connection: keep-alive, x-a\r\n")],
    ["many fields", post("a", Array.from({ length: 60 }, (_, i) => `X-${i}: 1\r\n`).join(""))],
  ])("for %s, and answers from there on", async (_, bytes) => {
    const socket = await open();
    socket.write(post("first"));
    await until(socket, /hot 1$/);
    socket.write(bytes);
    await until(socket, /slow/);
    expect(handedOver).toHaveLength(1);
    socket.destroy();
  });

  test("with a head that comes in two reads", async () => {
    const socket = await open();
    const bytes = post("body");
    socket.write(bytes.slice(0, 30));
    for (let turn = 0; turn < 20; turn++) await new Promise(setImmediate);
    socket.write(bytes.slice(30));
    await until(socket, /slow/);
    expect(taken).toEqual([]);
    socket.destroy();
  });

  test("behind a request that is still being answered", async () => {
    hold = true;
    const socket = await open();
    socket.write(`${post("a")}GET /other HTTP/1.1\r\nHost: x\r\n\r\n`);
    while (held.length === 0) await new Promise(setImmediate);
    expect(handedOver).toEqual([]);
    const both = until(socket, /first[\s\S]*slow/);
    answer(held[0] as HotResponse, "first");
    await both;
    expect(handedOver).toEqual(["GET /other"]);
    socket.destroy();
  });

  const cl = "Content-Length: 1\r\n";
  test.each([
    ["Content-Length with Transfer-Encoding", `Host: x\r\n${cl}Transfer-Encoding: chunked\r\n`],
    ["Transfer-Encoding in disguise", `Host: x\r\n${cl}Transfer-Encoding : chunked\r\n`],
    ["two Content-Lengths", `Host: x\r\n${cl}Content-Length: 2\r\n`],
    ["the same Content-Length twice", `Host: x\r\n${cl}${cl}`],
    ["a list as Content-Length", "Host: x\r\nContent-Length: 1, 1\r\n"],
    ["a sign in Content-Length", "Host: x\r\nContent-Length: +1\r\n"],
    ["a hexadecimal Content-Length", "Host: x\r\nContent-Length: 0x1\r\n"],
    ["a space before the colon", `Host: x\r\nContent-Length : 1\r\n`],
    ["a line that ends in LF alone", `Host: x\n${cl}`],
    ["a head that ends in LF alone", `Host: x\r\n${cl}\nX: y\r\n`],
    ["a CR within a value", `Host: x\r\n${cl}X-A: a\rb\r\n`],
    ["a NUL within a value", `Host: x\r\n${cl}X-A: a\0b\r\n`],
    ["a folded line", `Host: x\r\n${cl}X-A: a\r\n b\r\n`],
    ["no Host", cl],
    ["an empty field name", `Host: x\r\n${cl}: a\r\n`],
  ])("for %s, and refuses", async (_, fields) => {
    const socket = await open();
    socket.write(post("first"));
    await until(socket, /hot 1$/);
    socket.write(`POST /hot HTTP/1.1\r\n${fields}\r\na`);
    expect(await text(socket)).toMatch(/^HTTP\/1\.1 400 /);
    expect(taken).toEqual(["first"]);
    expect(handedOver).toEqual([]);
  });

  test.each([
    [
      "a head that is too large",
      `X-A: ${"a".repeat(100_000)}\r\n`,
      431,
      "larger than 16384 bytes together; send less.",
    ],
    ["two lengths", "Content-Length: 2\r\n", 400, "This is no valid HTTP/1.1 request: "],
  ])("for %s, and its refusal says why and is read to its end", async (_, field, status, why) => {
    const socket = await open();
    let failed: Error | undefined;
    socket.on("error", (error) => (failed = error));
    socket.write(`POST /hot HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n${field}\r\na`);
    const answer = await text(socket);
    expect(answer).toMatch(new RegExp(`^HTTP/1\\.1 ${status} [^]*\r\nconnection: close\r\n\r\n`));
    expect(answer).toContain(why);
    expect(failed).toBeUndefined();
    expect(taken).toEqual([]);
  });
});

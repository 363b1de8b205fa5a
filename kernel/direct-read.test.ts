import { once } from "node:events";
import { type AddressInfo, Socket, connect, createServer } from "node:net";
import { TLSSocket } from "node:tls";
import { afterEach, describe, expect, test } from "vitest";
import { DirectRead } from "#kernel/direct-read.ts";

const open: Socket[] = [];

afterEach(() => {
  for (const socket of open.splice(0)) socket.destroy();
});

/** A connection's two ends. `received` is what came to the near one by itself, `streamed` what its stream emitted. */
async function pair() {
  const server = createServer({ pauseOnConnect: true }).listen(0, "127.0.0.1");
  await once(server, "listening");
  const far = connect({ port: (server.address() as AddressInfo).port, host: "127.0.0.1" });
  const [near] = (await once(server, "connection")) as [Socket];
  server.close();
  open.push(near, far);
  near.on("error", () => {});
  far.on("error", () => {});
  const received: Buffer[] = [];
  const streamed: Buffer[] = [];
  let wake = (): void => {};
  const direct = DirectRead.of(near, (bytes) => {
    received.push(Buffer.from(bytes));
    wake();
  });
  if (direct === undefined) throw new Error("this Node does not read directly");
  near.on("data", (bytes: Buffer) => {
    streamed.push(bytes);
    wake();
  });
  const until = async (isThere: () => boolean): Promise<void> => {
    while (!isThere()) await new Promise<void>((resolve) => (wake = resolve));
  };
  return { near, far, direct, received, streamed, until };
}

/** More than the system keeps for a reader that is late. */
const large = Buffer.alloc(32 * 1024 * 1024, "0123456789abcdef");

/** Time for the system to bring what it would bring; what must not come does not come later either. */
async function turns(): Promise<void> {
  for (let turn = 0; turn < 50; turn++) await new Promise((resolve) => setImmediate(resolve));
}

function length(chunks: readonly Buffer[]): number {
  return chunks.reduce((sum, chunk) => sum + chunk.length, 0);
}

describe("a direct read", () => {
  test("is not for TLS, nor for a socket that connects or is closed", () => {
    const connecting = connect({ port: 1, host: "127.0.0.1" }).on("error", () => {});
    open.push(connecting);
    expect(DirectRead.of(connecting, () => {})).toBeUndefined();
    expect(DirectRead.of(new Socket(), () => {})).toBeUndefined();
    expect(DirectRead.of(new TLSSocket(new Socket()), () => {})).toBeUndefined();
  });

  test("brings all bytes in order, and the stream says when they end", async () => {
    const { near, far, received, streamed } = await pair();
    far.end(large);
    near.resume();
    await once(near, "end");
    expect(Buffer.compare(Buffer.concat(received), large)).toBe(0);
    expect(streamed).toEqual([]);
  });

  test("comes behind what the stream held unread", async () => {
    const { near, far, received, streamed, until } = await pair();
    near.unshift(Buffer.from("first "));
    near.resume();
    await until(() => streamed.length > 0);
    expect(received).toEqual([]);
    far.write("second");
    await until(() => received.length > 0);
    expect(Buffer.concat([...streamed, ...received]).toString()).toBe("first second");
  });

  test("rests while it is paused, so that the peer has to wait, and goes on", async () => {
    const { near, far, direct, received, until } = await pair();
    near.resume();
    far.write("one");
    await until(() => received.length > 0);
    direct.pause();
    let isSent = false;
    far.write(large, () => (isSent = true));
    await turns();
    expect(isSent).toBe(false);
    expect(length(received)).toBe(3);
    direct.resume();
    await until(() => length(received) === 3 + large.length);
  });

  test("that is given back leaves the rest to the stream, at the stream's pace", async () => {
    const { near, far, direct, received, streamed, until } = await pair();
    near.resume();
    far.write("mine");
    await until(() => received.length > 0);
    near.pause();
    direct.giveBack();
    let isSent = false;
    far.write(large, () => (isSent = true));
    await turns();
    expect(isSent).toBe(false);
    near.resume();
    far.end();
    await once(near, "end");
    expect(Buffer.concat(received).toString()).toBe("mine");
    expect(Buffer.compare(Buffer.concat(streamed), large)).toBe(0);
  });

  test("says nothing of a connection that the peer reset; the stream does", async () => {
    const { near, far, received } = await pair();
    near.resume();
    const closed = new Promise((resolve) => near.on("close", resolve));
    far.resetAndDestroy();
    await closed;
    expect(received).toEqual([]);
  });
});

import { once } from "node:events";
import { type AddressInfo, Socket, connect, createServer } from "node:net";
import { TLSSocket } from "node:tls";
import { afterEach, describe, expect, test } from "vitest";
import { DirectWrite } from "#kernel/direct-write.ts";

const open: Socket[] = [];

afterEach(() => {
  for (const socket of open.splice(0)) socket.destroy();
});

/** A connection's two ends; the far one reads nothing until it is told to. */
async function pair(): Promise<{ near: Socket; far: Socket; direct: DirectWrite }> {
  const server = createServer({ pauseOnConnect: true }).listen(0, "127.0.0.1");
  await once(server, "listening");
  const far = connect({ port: (server.address() as AddressInfo).port, host: "127.0.0.1" });
  const [near] = (await once(server, "connection")) as [Socket];
  server.close();
  open.push(near, far);
  near.on("error", () => {});
  far.on("error", () => {});
  const direct = DirectWrite.of(near);
  if (direct === undefined) throw new Error("this Node does not write directly");
  return { near, far: far.pause(), direct };
}

/** More than the system takes of a peer that does not read. */
const large = Buffer.alloc(32 * 1024 * 1024, "0123456789abcdef");

describe("a direct write", () => {
  test("is not for TLS, nor for a socket that connects or is closed", () => {
    const connecting = connect({ port: 1, host: "127.0.0.1" }).on("error", () => {});
    open.push(connecting);
    expect(DirectWrite.of(connecting)).toBeUndefined();
    expect(DirectWrite.of(new Socket())).toBeUndefined();
    expect(DirectWrite.of(new TLSSocket(new Socket()))).toBeUndefined();
  });

  test("leaves at once, in order with what the stream writes", async () => {
    const { near, far, direct } = await pair();
    expect(direct.write(Buffer.from("one "), () => {})).toBe("sent");
    near.write("two ");
    expect(direct.write(Buffer.from("three"), () => {})).toBe("sent");
    near.end();
    const chunks: Buffer[] = [];
    for await (const chunk of far) chunks.push(chunk as Buffer);
    expect(Buffer.concat(chunks).toString()).toBe("one two three");
  });

  test("sends text as what it is, ASCII or not", async () => {
    const { near, far, direct } = await pair();
    expect(direct.writeText("plain, ", true, () => {})).toBe("sent");
    expect(direct.writeText("wörld 🙂", false, () => {})).toBe("sent");
    near.end();
    const chunks: Buffer[] = [];
    for await (const chunk of far) chunks.push(chunk as Buffer);
    expect(Buffer.concat(chunks).toString()).toBe("plain, wörld 🙂");
  });

  test("of text waits too", async () => {
    const { near, far, direct } = await pair();
    const sent = new Promise<number>((resolve) => {
      expect(direct.writeText(large.toString("latin1"), true, resolve)).toBe("waiting");
    });
    near.end();
    let received = 0;
    for await (const chunk of far) received += (chunk as Buffer).length;
    expect(await sent).toBe(0);
    expect(received).toBe(large.length);
  });

  test("waits for a peer that does not read, and is whole when it does", async () => {
    const { near, far, direct } = await pair();
    const sent = new Promise<number>((resolve) => {
      expect(direct.write(large, resolve)).toBe("waiting");
    });
    near.end("the end");
    let received = 0;
    let tail = Buffer.alloc(0);
    for await (const chunk of far) {
      received += (chunk as Buffer).length;
      tail = Buffer.concat([tail, chunk as Buffer]).subarray(-7);
    }
    expect(await sent).toBe(0);
    expect(received).toBe(large.length + 7);
    expect(tail.toString()).toBe("the end");
  });

  test("says so when the socket is closed before all is sent", async () => {
    const { near, direct } = await pair();
    const sent = new Promise<number>((resolve) => void direct.write(large, resolve));
    near.destroy();
    expect(await sent).toBeLessThan(0);
  });

  test("fails on a connection that the peer has reset", async () => {
    const { far, direct } = await pair();
    far.resetAndDestroy();
    await once(far, "close");
    expect(direct.write(Buffer.from("too late"), () => {})).toBe("failed");
  });
});

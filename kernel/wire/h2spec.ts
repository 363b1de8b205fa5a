/**
 * Runs h2spec (github.com/summerwind/h2spec: generic, hpack and http2) against our server, plain and over TLS:
 *
 *     go install github.com/summerwind/h2spec/cmd/h2spec@latest
 *     node kernel/wire/h2spec.ts [path of h2spec] [further arguments of h2spec]
 *
 * Prints its report and exits with its status.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { type AddressInfo, type Server, createServer } from "node:net";
import { createServer as createTlsServer } from "node:tls";
import { systemClock } from "#kernel/clock.ts";
import { testCertificate, testKey } from "#kernel/test-certificate.ts";
import { Wire, encodeBlock, serveConnection } from "#kernel/wire/index.ts";

const headers = encodeBlock([
  [":status", "200"],
  ["content-type", "text/plain"],
]);
const body = Buffer.from("Hello from the other side of the window.\n");

async function serve(secure: boolean): Promise<Server> {
  const wire = new Wire({ clock: systemClock });
  const answer: Parameters<typeof serveConnection>[3] = {
    onStream(stream) {
      return {
        onData: (_bytes, start, end) => stream.consumed(end - start),
        onEnd() {
          stream.sendHeaders(headers);
          stream.write(body);
          stream.end();
        },
        onClose() {},
      };
    },
  };
  const nothingRead = new Uint8Array(0);
  const server: Server = secure
    ? createTlsServer({ cert: testCertificate, key: testKey, ALPNProtocols: ["h2"] }, (socket) =>
        serveConnection(wire, socket, nothingRead, answer),
      )
    : createServer((socket) => void serveConnection(wire, socket, nothingRead, answer));
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return server;
}

async function check(secure: boolean): Promise<number> {
  const [program = "h2spec", ...further] = process.argv.slice(2);
  const server = await serve(secure);
  const { port } = server.address() as AddressInfo;
  const target = ["--host", "127.0.0.1", "--port", String(port), ...(secure ? ["--tls", "--insecure"] : [])];
  const [status] = (await once(spawn(program, [...target, ...further], { stdio: "inherit" }), "exit")) as [
    number | null,
  ];
  server.close();
  return status ?? 1;
}

process.exitCode = (await check(false)) || (await check(true));

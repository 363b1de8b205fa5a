import { STATUS_CODES, maxHeaderSize } from "node:http";
import type { Socket } from "node:net";
import { systemClock } from "#kernel/clock.ts";

/** For a client to read why it is refused: a TCP reset would destroy the answer. */
const lingerMs = 1_000;

/** Answers what node:http's parser could not read as a request, or waited for in vain, and ends the connection. */
export function refuseMalformed(
  error: Error & { readonly code?: string; readonly reason?: string },
  socket: Socket,
): void {
  const [status, text] = reasonOf(error);
  const body = `${text}\n`;
  const head = `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\ncontent-type: text/plain\r\ncontent-length: ${body.length}`;
  socket.end(`${head}\r\nconnection: close\r\n\r\n${body}`);
  socket.resume();
  const cut = systemClock.setTimer(lingerMs, () => socket.destroy());
  socket.once("close", () => cut.cancel());
}

function reasonOf({
  code,
  reason,
}: {
  readonly code?: string;
  readonly reason?: string;
}): [status: number, text: string] {
  switch (code) {
    case "HPE_HEADER_OVERFLOW":
      return [431, `The request's line and headers are larger than ${maxHeaderSize} bytes together; send less.`];
    case "HPE_CHUNK_EXTENSIONS_OVERFLOW":
      return [413, "The chunk extensions of the request's body are too large; send none."];
    case "ERR_HTTP_REQUEST_TIMEOUT":
      return [408, "The request did not arrive in time; send it faster."];
    default:
      // The parser's own words are ASCII and say nothing of what was sent.
      return [400, `This is no valid HTTP/1.1 request${reason ? `: ${reason}` : ""}.`];
  }
}

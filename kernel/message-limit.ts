import type { ConnectError } from "@connectrpc/connect";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";

/** Flags byte and big-endian length before each message of gRPC, gRPC-Web and streaming Connect. */
const envelopeHeaderBytes = 5;

/**
 * Passes a request body on and throws REQUEST_TOO_LARGE before anything past the limit is buffered: for a whole body
 * when it is one message, for each message when they are enveloped (https://connectrpc.com/docs/protocol,
 * "Enveloped-Message").
 */
export async function* limitMessages(
  body: AsyncIterable<Uint8Array>,
  options: { readonly enveloped: boolean; readonly maxBytes: number; readonly lengthHint?: number },
): AsyncGenerator<Uint8Array> {
  const { enveloped, maxBytes, lengthHint = 0 } = options;
  if (!enveloped && lengthHint > maxBytes) throw tooLarge(lengthHint, maxBytes);
  const check = enveloped ? envelopeChecker(maxBytes) : wholeChecker(maxBytes);
  for await (const chunk of body) {
    check(chunk);
    yield chunk;
  }
}

function wholeChecker(maxBytes: number): (chunk: Uint8Array) => void {
  let total = 0;
  return (chunk) => {
    total += chunk.length;
    if (total > maxBytes) throw tooLarge(undefined, maxBytes);
  };
}

function envelopeChecker(maxBytes: number): (chunk: Uint8Array) => void {
  const header = new DataView(new ArrayBuffer(envelopeHeaderBytes));
  let headerBytes = 0;
  let payloadLeft = 0;
  return (chunk) => {
    for (let at = 0; at < chunk.length;) {
      if (payloadLeft > 0) {
        const step = Math.min(payloadLeft, chunk.length - at);
        payloadLeft -= step;
        at += step;
        continue;
      }
      header.setUint8(headerBytes++, chunk[at++] ?? 0);
      if (headerBytes < envelopeHeaderBytes) continue;
      headerBytes = 0;
      payloadLeft = header.getUint32(1);
      if (payloadLeft > maxBytes) throw tooLarge(payloadLeft, maxBytes);
    }
  };
}

function tooLarge(bytes: number | undefined, maxBytes: number): ConnectError {
  const size = bytes === undefined ? "more than that" : `${bytes} bytes`;
  const message = `The request message is too large: the limit is ${maxBytes} bytes and it has ${size}. Send less at once.`;
  return new MeshError(Reason.REQUEST_TOO_LARGE, message, { limit: `${maxBytes} bytes` }).toConnectError();
}

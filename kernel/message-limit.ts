import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";

/** Flags byte and big-endian length before each message of gRPC, gRPC-Web and streaming Connect. */
const envelopeHeaderBytes = 5;

/** https://connectrpc.com/docs/protocol, "Enveloped-Message"; gRPC's "Length-Prefixed-Message" is the same. */
export interface Envelope {
  readonly flags: number;
  readonly payload: Uint8Array;
}

/**
 * Cuts a body into its messages.
 * @throws MeshError REQUEST_TOO_LARGE before anything past the limit is buffered, INVALID_REQUEST when it ends early
 */
export async function* readEnvelopes(body: AsyncIterable<Uint8Array>, maxBytes: number): AsyncGenerator<Envelope> {
  const header = new DataView(new ArrayBuffer(envelopeHeaderBytes));
  let headerBytes = 0;
  let flags = 0;
  let parts: Uint8Array[] = [];
  let missing = -1;
  for await (const chunk of body) {
    for (let at = 0; at < chunk.length;) {
      if (missing < 0) {
        header.setUint8(headerBytes++, chunk[at++] ?? 0);
        if (headerBytes < envelopeHeaderBytes) continue;
        headerBytes = 0;
        flags = header.getUint8(0);
        missing = header.getUint32(1);
        if (missing > maxBytes) throw tooLarge(missing, maxBytes);
      } else {
        const part = chunk.subarray(at, at + missing);
        parts.push(part);
        at += part.length;
        missing -= part.length;
      }
      if (missing !== 0) continue;
      yield { flags, payload: join(parts) };
      parts = [];
      missing = -1;
    }
  }
  if (missing > 0) throw endsEarly(`${missing} bytes of its last message are missing`);
  if (headerBytes > 0) throw endsEarly(`its last message has ${headerBytes} of ${envelopeHeaderBytes} header bytes`);
}

/** A body that is one message. @throws MeshError REQUEST_TOO_LARGE, by `lengthHint` before the first byte */
export async function readWhole(
  body: AsyncIterable<Uint8Array>,
  maxBytes: number,
  lengthHint: number,
): Promise<Uint8Array> {
  if (lengthHint > maxBytes) throw tooLarge(lengthHint, maxBytes);
  const parts: Uint8Array[] = [];
  let total = 0;
  for await (const chunk of body) {
    total += chunk.length;
    if (total > maxBytes) throw tooLarge(undefined, maxBytes);
    parts.push(chunk);
  }
  return join(parts);
}

function join(parts: readonly Uint8Array[]): Uint8Array {
  const [only] = parts;
  return parts.length === 1 && only ? only : Buffer.concat(parts);
}

export function endsEarly(what: string): MeshError {
  return new MeshError(Reason.INVALID_REQUEST, `The request body ends too early: ${what}. Send whole messages.`);
}

/** `bytes` is undefined while the message is still coming; `when` says at which stage it was too large. */
export function tooLarge(bytes: number | undefined, maxBytes: number, when = ""): MeshError {
  const size = bytes === undefined ? "more than that" : `${bytes} bytes`;
  const message = `The request message is too large: the limit is ${maxBytes} bytes and it has ${size}${when}. Send less at once.`;
  return new MeshError(Reason.REQUEST_TOO_LARGE, message, { limit: `${maxBytes} bytes` });
}

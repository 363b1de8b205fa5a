import { brotliDecompressSync, gunzipSync } from "node:zlib";
import { Code, ConnectError } from "@connectrpc/connect";
import { findTrailerError, setTrailerStatus } from "@connectrpc/connect/protocol-grpc";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { endsEarly, tooLarge } from "#kernel/message-limit.ts";
import { percentEncode } from "#kernel/rpc-response.ts";
import { type HeaderFields, type HeaderList, encodeBlock, messageHeaderBytes } from "#kernel/wire/index.ts";

/**
 * DATA that is one message, whole, uncompressed and no longer than `maxBytes`, which needs no reader: it lies behind
 * `messageHeaderBytes`.
 */
export function isWholeMessage(bytes: Buffer, start: number, end: number, maxBytes: number): boolean {
  const length = end - start - messageHeaderBytes;
  return length >= 0 && length <= maxBytes && bytes[start] === 0 && bytes.readUInt32BE(start + 1) === length;
}

export interface GrpcMessageReaderOptions {
  /** Of one message, before and after decompression. */
  readonly maxBytes: number;
  /** The peer's grpc-encoding. */
  readonly encoding: string | undefined;
  /** One message, lent for the call: copy what must last. */
  onMessage(bytes: Buffer, start: number, end: number): void;
}

type Inflate = (bytes: Uint8Array, options: { readonly maxOutputLength: number }) => Buffer;

/** By grpc-encoding; what `grpcResponseHeaders` offers. */
const inflates = new Map<string, Inflate>([
  ["gzip", gunzipSync],
  ["br", brotliDecompressSync],
]);

const nothing = Buffer.alloc(0);
/** A message's first piece of memory; more only as its bytes come, so that a length alone costs nothing. */
const firstBytes = 16_384;
/** Kept for the next message of the stream; larger memory goes back after one. */
const keptBytes = 65_536;

/**
 * Cuts the DATA of one gRPC stream into messages, however it was split. A message that arrives in one piece is lent as it
 * lies in the read buffer; others are gathered.
 */
export class GrpcMessageReader {
  readonly #options: GrpcMessageReaderOptions;
  /** Of the message that has begun. */
  #flags = 0;
  /** Of a header that comes in pieces. */
  #header = nothing;
  #headerRead = 0;
  /** What has come of a message's body; `#length` is -1 until its header is whole. */
  #body = nothing;
  #bodyRead = 0;
  #length = -1;

  constructor(options: GrpcMessageReaderOptions) {
    this.#options = options;
  }

  /**
   * @throws MeshError REQUEST_TOO_LARGE before anything past the limit is buffered, INVALID_REQUEST for what is no
   * message, ROUTE_NOT_FOUND (UNIMPLEMENTED) for an encoding that we do not have; ConnectError INTERNAL for a message
   * flagged as compressed where the headers name no encoding. The reader is spent then.
   */
  push(bytes: Buffer, start: number, end: number): void {
    let at = start;
    while (at < end) {
      if (this.#headerRead === 0 && end - at >= messageHeaderBytes) {
        const flags = bytes[at] as number;
        const length = this.#checked(flags, bytes.readUInt32BE(at + 1));
        at += messageHeaderBytes;
        if (end - at >= length) {
          this.#deliver(flags, bytes, at, at + length);
          at += length;
          continue;
        }
        this.#flags = flags;
        this.#headerRead = messageHeaderBytes;
        this.#length = length;
      }
      at =
        this.#headerRead < messageHeaderBytes ? this.#gatherHeader(bytes, at, end) : this.#gatherBody(bytes, at, end);
    }
  }

  /** The stream is over. @throws MeshError INVALID_REQUEST when a message is cut short */
  finish(): void {
    if (this.#length >= 0) throw endsEarly(`${this.#length - this.#bodyRead} bytes of its last message are missing`);
    if (this.#headerRead > 0) {
      throw endsEarly(`its last message has ${this.#headerRead} of ${messageHeaderBytes} header bytes`);
    }
  }

  #gatherHeader(bytes: Buffer, at: number, end: number): number {
    const next = Math.min(end, at + messageHeaderBytes - this.#headerRead);
    if (this.#headerRead === 0) this.#header = Buffer.allocUnsafe(messageHeaderBytes);
    this.#headerRead += bytes.copy(this.#header, this.#headerRead, at, next);
    if (this.#headerRead < messageHeaderBytes) return next;
    this.#flags = this.#header[0] as number;
    this.#length = this.#checked(this.#flags, this.#header.readUInt32BE(1));
    // One that is empty is whole already, and its body may be the last thing that came.
    return this.#length === 0 ? this.#gatherBody(bytes, next, next) : next;
  }

  #gatherBody(bytes: Buffer, at: number, end: number): number {
    const next = Math.min(end, at + this.#length - this.#bodyRead);
    const needed = this.#bodyRead + next - at;
    if (needed > this.#body.length) {
      const grown = Buffer.allocUnsafe(Math.min(this.#length, Math.max(needed, this.#body.length * 2, firstBytes)));
      this.#body.copy(grown, 0, 0, this.#bodyRead);
      this.#body = grown;
    }
    this.#bodyRead += bytes.copy(this.#body, this.#bodyRead, at, next);
    if (this.#bodyRead < this.#length) return next;
    const body = this.#body;
    const length = this.#length;
    if (body.length > keptBytes) this.#body = nothing;
    this.#bodyRead = 0;
    this.#headerRead = 0;
    this.#length = -1;
    this.#deliver(this.#flags, body, 0, length);
    return next;
  }

  #checked(flags: number, length: number): number {
    if (flags > 1) throw invalid(`A message has the flags 0x${flags.toString(16)}; only 0x1 (compressed) exists.`);
    if (length > this.#options.maxBytes) throw tooLarge(length, this.#options.maxBytes);
    return length;
  }

  #deliver(flags: number, bytes: Buffer, start: number, end: number): void {
    if (flags === 0) return this.#options.onMessage(bytes, start, end);
    const whole = this.#inflate(bytes.subarray(start, end));
    this.#options.onMessage(whole, 0, whole.length);
  }

  #inflate(bytes: Uint8Array): Buffer {
    const { encoding, maxBytes } = this.#options;
    if (encoding === undefined || encoding === "identity") {
      // https://github.com/grpc/grpc/blob/master/doc/compression.md, "Test cases", 4: a library's defect, no caller's.
      const message = `A message is flagged as compressed, but grpc-encoding is ${encoding ?? "not set"}.`;
      throw new ConnectError(message, Code.Internal);
    }
    const inflate = inflates.get(encoding);
    if (!inflate) {
      const known = [...inflates.keys()].join(" or ");
      throw new MeshError(
        Reason.ROUTE_NOT_FOUND,
        `The grpc-encoding ${JSON.stringify(encoding.slice(0, 100))} is not known here; use ${known}, or none.`,
        { field: "grpc-encoding" },
      );
    }
    try {
      return inflate(bytes, { maxOutputLength: maxBytes });
    } catch (error) {
      if (error instanceof RangeError) throw tooLarge(undefined, maxBytes, " after decompression");
      throw invalid(`A message cannot be decompressed: it is no valid ${encoding} data.`);
    }
  }
}

/** Open every answer that has messages; for those who add fields of their own. */
export const grpcResponseFields: HeaderFields = [
  [":status", "200"],
  ["content-type", "application/grpc+proto"],
  ["grpc-accept-encoding", [...inflates.keys()].join(",")],
];

/** The same, encoded. */
export const grpcResponseHeaders = encodeBlock(grpcResponseFields);

/** Ends an answer that went well. */
export const grpcOkTrailers = encodeBlock([["grpc-status", "0"]]);

/** How a call ends: the same fields as from connect-es, our detail in grpc-status-details-bin among them. */
export function grpcTrailers(error?: MeshError | ConnectError, callId = ""): HeaderFields {
  const told = error instanceof MeshError ? error.toConnectError(callId) : error;
  const fields = [...setTrailerStatus(new Headers(), told)];
  return fields.map(([name, value]) => [name, name === "grpc-message" ? percentEncode(told?.rawMessage ?? "") : value]);
}

/** "Trailers-Only": the whole answer to a call that is refused before any message; send it with `end`. */
export function grpcRefusal(error: MeshError | ConnectError, callId = ""): HeaderFields {
  return [...grpcResponseFields, ...grpcTrailers(error, callId)];
}

/** The fault that a peer's trailers tell, if they tell one. */
export function grpcFault(trailers: HeaderList): MeshError | undefined {
  const headers = new Headers();
  for (const name of ["grpc-status", "grpc-message", "grpc-status-details-bin"]) {
    const value = trailers.get(name);
    if (value !== undefined) headers.set(name, value);
  }
  if (!headers.has("grpc-status"))
    return new MeshError(Reason.INTERNAL, "The peer ended the call without a grpc-status.");
  try {
    const error = findTrailerError(headers);
    return error && MeshError.from(error);
  } catch (error) {
    // Percent-encoding or base64 that is none.
    return MeshError.from(ConnectError.from(error));
  }
}

function invalid(message: string): MeshError {
  return new MeshError(Reason.INVALID_REQUEST, message);
}

import { type DescMethod, type Message, fromBinary, fromJsonString } from "@bufbuild/protobuf";
import { Code, ConnectError, type Interceptor, createContextKey } from "@connectrpc/connect";
import { compressionBrotli, compressionGzip } from "@connectrpc/connect-node";
import type { Compression } from "@connectrpc/connect/protocol";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { connectTimeoutMs, grpcTimeoutMs } from "#kernel/call-timeout.ts";
import { systemClock } from "#kernel/clock.ts";
import { jsonText } from "#kernel/json-body.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import { binaryFault, jsonFault } from "#kernel/message-fault.ts";
import { type Envelope, readEnvelopes, readWhole, tooLarge } from "#kernel/message-limit.ts";

export const compressions: readonly Compression[] = [compressionGzip, compressionBrotli];

/** Messages that were decoded and not yet taken, in order. */
export const decodedMessages = createContextKey<Message[] | undefined>(undefined);

export interface RpcRequestOptions {
  readonly method: DescMethod;
  readonly headers: Headers;
  readonly body: AsyncIterable<Uint8Array>;
  readonly maxBytes: number;
  /** Where the messages go; `takeMessages` takes them. */
  readonly decoded: Message[];
  /** The longest that a single message may take to arrive. */
  readonly timeoutMs: number;
  readonly callId: string;
  /** For counting. */
  readonly onFault: (reason: Reason) => void;
}

/** How the bytes of a request are to be read. */
interface Form {
  readonly isJson: boolean;
  readonly isEnveloped: boolean;
  readonly encoding: string | null;
  /** The body's length if it was told, else 0. */
  readonly length: number;
  /** That the caller gives the call; infinite without a deadline. */
  readonly timeoutMs: number;
  /** What is wrong with the headers. */
  readonly fault?: MeshError;
}

/**
 * Reads, limits, decompresses and decodes a request instead of connect-es, whose faults come without our detail, without
 * a place, and with INTERNAL for a malformed message. connect-es gets an empty message for each, and `takeMessages`
 * puts the real one in its place. Takes those headers away that do not describe the empty ones.
 */
export function decodeRequest(options: RpcRequestOptions): AsyncIterable<Uint8Array> {
  const { headers } = options;
  const type = headers.get("content-type") ?? "";
  const isEnveloped = /^application\/(grpc|connect\+)/i.test(type);
  const encoding = isEnveloped
    ? (headers.get("grpc-encoding") ?? headers.get("connect-content-encoding"))
    : headers.get("content-encoding");
  const length = Number(headers.get("content-length") ?? 0);
  headers.delete("content-length");
  const deadline = takeDeadline(headers);
  // One that is unknown is connect-es' to refuse.
  if (!isEnveloped && encoding !== null && encodingOf(encoding)) headers.delete("content-encoding");
  const form = { isJson: /json/i.test(type), isEnveloped, encoding, length, ...deadline };
  return decode(options, form);
}

/** The time that the caller gives the call; a header that says none is taken away, for connect-es throws without detail. */
function takeDeadline(headers: Headers): { readonly timeoutMs: number; readonly fault?: MeshError } {
  try {
    const grpc = headers.get("grpc-timeout") ?? undefined;
    const connect = headers.get("connect-timeout-ms") ?? undefined;
    return { timeoutMs: grpc === undefined ? connectTimeoutMs(connect) : grpcTimeoutMs(grpc) };
  } catch (error) {
    const fault = MeshError.from(error);
    headers.delete(fault.field);
    return { timeoutMs: Number.POSITIVE_INFINITY, fault };
  }
}

async function* decode(options: RpcRequestOptions, form: Form): AsyncGenerator<Uint8Array> {
  const { method, maxBytes, decoded, callId, onFault } = options;
  const { isJson, isEnveloped, encoding, length, timeoutMs, fault } = form;
  const isSingle = method.methodKind === "unary" || method.methodKind === "server_streaming";
  const body = isSingle
    ? withTimeout(options.body, Math.min(options.timeoutMs, timeoutMs), tooSlow)
    : withTimeout(options.body, timeoutMs, tooLate);

  async function read(bytes: Uint8Array, isCompressed: boolean): Promise<void> {
    const whole = isCompressed ? await decompress(bytes, encoding, maxBytes) : bytes;
    decoded.push(isJson ? parseJsonMessage(method, whole) : parseBinaryMessage(method, whole));
  }

  try {
    if (fault) throw fault;
    if (!isEnveloped) {
      await read(await readWhole(body, maxBytes, length), encoding !== null && encoding !== "identity");
      if (isJson) yield emptyJson;
      return;
    }
    let count = 0;
    for await (const envelope of readEnvelopes(body, maxBytes)) {
      if (++count > 1 && isSingle)
        throw breach(Code.Unimplemented, `${method.name} takes one request message, but the body has more.`);
      await read(envelope.payload, compressionFlag(envelope));
      yield isJson ? emptyJsonEnvelope : emptyEnvelope;
    }
    if (count === 0 && isSingle)
      throw breach(Code.Unimplemented, `The request body holds no message; ${method.name} takes one.`);
  } catch (error) {
    // How a peer goes away is Node's to tell.
    if (!(error instanceof MeshError)) throw error;
    if (isSingle || error.reason !== Reason.DEADLINE_EXCEEDED) onFault(error.reason);
    throw error.toConnectError(callId);
  }
}

const emptyJson = Buffer.from("{}");
const emptyEnvelope = Buffer.from([0, 0, 0, 0, 0]);
const emptyJsonEnvelope = Buffer.from([0, 0, 0, 0, 2, ...emptyJson]);

/** Puts decoded messages in the place of those that connect-es made of nothing. Outermost but for `rpcErrors`. */
export const takeMessages: Interceptor = (next) => (request) => {
  const decoded = request.contextValues.get(decodedMessages);
  if (!decoded) return next(request);
  if (request.stream) return next({ ...request, message: taken(request.message, decoded) });
  return next({ ...request, message: decoded.shift() ?? request.message });
};

async function* taken<T extends Message>(placeholders: AsyncIterable<T>, decoded: Message[]): AsyncGenerator<Message> {
  for await (const placeholder of placeholders) yield decoded.shift() ?? placeholder;
}

function compressionFlag({ flags }: Envelope): boolean {
  if (flags > 1)
    throw invalid(`A request message has the flags 0x${flags.toString(16)}; only 0x1 (compressed) exists.`);
  return flags === 1;
}

function encodingOf(name: string): Compression | undefined {
  return compressions.find((candidate) => candidate.name === name);
}

async function decompress(bytes: Uint8Array, encoding: string | null, maxBytes: number): Promise<Uint8Array> {
  const compression = encodingOf(encoding ?? "identity");
  if (!compression) {
    const message = `A request message is flagged as compressed, but its encoding is ${encoding ?? "not named"}.`;
    throw breach(Code.Internal, message);
  }
  try {
    return await compression.decompress(bytes, maxBytes);
  } catch (error) {
    if (ConnectError.from(error).code === Code.ResourceExhausted) {
      throw tooLarge(undefined, maxBytes, " after decompression");
    }
    throw invalid(`A request message cannot be decompressed: it is no valid ${encoding} data.`);
  }
}

function parseBinaryMessage({ input }: DescMethod, bytes: Uint8Array): Message {
  try {
    return fromBinary(input, bytes);
  } catch (error) {
    throw binaryFault(input, bytes, error);
  }
}

/** Unknown fields are refused: a mistyped parameter that is ignored changes the answer without a word. */
function parseJsonMessage({ input }: DescMethod, bytes: Uint8Array): Message {
  const text = jsonText(bytes);
  try {
    return fromJsonString(input, text);
  } catch (error) {
    throw jsonFault(input, bytes, error);
  }
}

/**
 * No generator, for it stands in the way of every chunk.
 * @throws what `fault` makes from a read that goes beyond `timeoutMs` after the first
 */
function withTimeout(
  body: AsyncIterable<Uint8Array>,
  timeoutMs: number,
  fault: (timeoutMs: number) => MeshError,
): AsyncIterable<Uint8Array> {
  if (timeoutMs === Number.POSITIVE_INFINITY) return body;
  return {
    [Symbol.asyncIterator]() {
      const chunks = body[Symbol.asyncIterator]();
      const { promise: expired, reject } = Promise.withResolvers<never>();
      expired.catch(() => {}); // It may come when nobody waits for it, which is well.
      const timer = systemClock.setTimer(timeoutMs, () => reject(fault(timeoutMs)));
      return {
        async next() {
          try {
            const chunk = await Promise.race([chunks.next(), expired]);
            if (chunk.done) timer.cancel();
            return chunk;
          } catch (error) {
            timer.cancel();
            throw error;
          }
        },
        return() {
          timer.cancel();
          // Not awaited: it comes after a read that may never end, and whose failure that read has told.
          chunks.return?.().catch(() => {});
          return Promise.resolve({ done: true, value: undefined });
        },
      };
    },
  };
}

function tooSlow(timeoutMs: number): MeshError {
  const limit = `${Math.round(timeoutMs)} ms`;
  const message = `The request did not arrive whole within ${limit}; send it faster.`;
  return new MeshError(Reason.DEADLINE_EXCEEDED, message, { limit });
}

/** A handler that waits for the next message of a stream looks at no signal. */
function tooLate(timeoutMs: number): MeshError {
  const limit = `${Math.round(timeoutMs)} ms`;
  const message = `The call did not end within the ${limit} of its deadline; give it more time or ask for less.`;
  return new MeshError(Reason.DEADLINE_EXCEEDED, message, { limit });
}

/**
 * Only a client library with a defect does this: the code is the one that the protocols give it
 * (https://github.com/grpc/grpc/blob/master/doc/statuscodes.md, "Cardinality violation", and compression.md).
 */
function breach(code: Code, message: string): ConnectError {
  return new ConnectError(message, code);
}

function invalid(message: string): MeshError {
  return new MeshError(Reason.INVALID_REQUEST, message);
}

import { deepStrictEqual, strictEqual } from "node:assert";
import { type DescMethod, type DescService, type Message, create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";
import { GrpcMessageReader } from "#kernel/grpc-messages.ts";
import { invariant } from "#kernel/invariant.ts";
import { type Payload, echoInitial, echoTrailing } from "#kernel/wire/grpc-interop-service.ts";
import {
  type ClientConnection,
  ErrorCode,
  type HeaderFields,
  type HeaderList,
  type StreamEnd,
  type StreamListener,
  type WireStream,
} from "#kernel/wire/index.ts";

interface Status {
  readonly code: number;
  readonly message: string;
  readonly trailers: HeaderList;
}

/** What is read of any response. */
interface Response extends Message {
  readonly payload?: Payload;
  readonly aggregatedPayloadSize?: number;
}

type Fields = Record<string, unknown>;
type Client = (method: string, extra?: HeaderFields) => ClientCall;

const requestSizes = [27_182, 8, 1_828, 45_904];
const responseSizes = [31_415, 9, 2_653, 58_979];
const payloadOf = (size: number): Fields => ({ payload: { body: new Uint8Array(size) } });
const wanted = (...sizes: number[]): Fields => ({ responseParameters: sizes.map((size) => ({ size })) });

/** https://github.com/grpc/grpc/blob/master/doc/interop-test-descriptions.md, from our side; each throws when it fails. */
const cases = {
  async empty_unary(call) {
    const { responses, status } = await call("emptyCall").all({});
    strictEqual(responses.length, 1);
    strictEqual(status.code, 0);
  },
  large_unary: largeUnary,
  async concurrent_large_unary(call) {
    // What all of them send is within `maxBufferedBytes`.
    await Promise.all(Array.from({ length: 50 }, () => largeUnary(call)));
  },
  async client_streaming(call) {
    const { responses } = await call("streamingInputCall").all(...requestSizes.map(payloadOf));
    deepStrictEqual(
      responses.map(({ aggregatedPayloadSize }) => aggregatedPayloadSize),
      [74_922],
    );
  },
  async server_streaming(call) {
    const { responses, status } = await call("streamingOutputCall").all(wanted(...responseSizes));
    deepStrictEqual(responses.map(sizeOf), responseSizes);
    strictEqual(status.code, 0);
  },
  async ping_pong(call) {
    const talk = call("fullDuplexCall");
    for (const [index, size] of responseSizes.entries()) {
      talk.send({ ...wanted(size), ...payloadOf(requestSizes[index] ?? 0) });
      strictEqual(sizeOf(await talk.response(index)), size);
    }
    talk.end();
    strictEqual((await talk.status).code, 0);
  },
  async half_duplex(call) {
    const { responses } = await call("halfDuplexCall").all(...responseSizes.map((size) => wanted(size)));
    deepStrictEqual(responses.map(sizeOf), responseSizes);
  },
  async empty_stream(call) {
    const { responses, status } = await call("fullDuplexCall").all();
    strictEqual(responses.length, 0);
    strictEqual(status.code, 0);
  },
  /** The server ends it: by its status, or as Go does when the deadline is over, by a reset. */
  async timeout_on_sleeping_server(call) {
    const talk = call("fullDuplexCall", [["grpc-timeout", "1m"]]);
    talk.send(payloadOf(27_182));
    const [answer] = await Promise.allSettled([talk.status]);
    if (answer.status === "fulfilled") strictEqual(answer.value.code, Code.DeadlineExceeded);
    else strictEqual((await talk.closed).kind, "reset");
  },
  async cancel_after_begin(call) {
    const talk = call("streamingInputCall");
    talk.cancel();
    await isCancelled(talk);
  },
  async cancel_after_first_response(call) {
    const talk = call("fullDuplexCall");
    talk.send({ ...wanted(31_415), ...payloadOf(27_182) });
    await talk.response(0);
    talk.cancel();
    await isCancelled(talk);
  },
  async status_code_and_message(call) {
    const responseStatus = { code: 2, message: "test status message" };
    for (const method of ["unaryCall", "fullDuplexCall"]) {
      const { status } = await call(method).all({ responseStatus });
      deepStrictEqual({ code: status.code, message: status.message }, responseStatus);
    }
  },
  async special_status_message(call) {
    const message = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n";
    const { status } = await call("unaryCall").all({ responseStatus: { code: 2, message } });
    strictEqual(status.message, message);
  },
  async custom_metadata(call) {
    const trailing = "CgsKCwoL"; // 0x0a0b0a0b0a0b
    const metadata: HeaderFields = [
      [echoInitial, "test_initial_metadata_value"],
      [echoTrailing, trailing],
    ];
    for (const [method, request] of [
      ["unaryCall", { responseSize: 1, ...payloadOf(1) }],
      ["fullDuplexCall", { ...wanted(1), ...payloadOf(1) }],
    ] as const) {
      const talk = call(method, metadata);
      const { status } = await talk.all(request);
      strictEqual(status.code, 0);
      strictEqual(talk.headers?.get(echoInitial), "test_initial_metadata_value");
      strictEqual(status.trailers.get(echoTrailing)?.replace(/=+$/, ""), trailing);
    }
  },
  async unimplemented_method(call) {
    strictEqual((await call("/grpc.testing.TestService/UnimplementedCall").all({})).status.code, Code.Unimplemented);
  },
  async unimplemented_service(call) {
    const { status } = await call("/grpc.testing.UnimplementedService/UnimplementedCall").all({});
    strictEqual(status.code, Code.Unimplemented);
  },
  /** As rpc_soak of the official clients: one connection, call after call. */
  async rpc_soak(call) {
    for (let count = 0; count < 200; count++) await largeUnary(call);
  },
} satisfies Record<string, (call: Client) => Promise<void>>;

export type InteropCase = (connection: ClientConnection, service: DescService) => Promise<void>;

/** By their names. */
export const interopCases: ReadonlyMap<string, InteropCase> = new Map(
  Object.entries<(call: Client) => Promise<void>>(cases).map(([name, run]) => [
    name,
    (connection, service) =>
      run((name, extra = []) => {
        const method = service.method[name] ?? service.method["emptyCall"];
        invariant(method, "the service has the method");
        const path = name.startsWith("/") ? name : `/${service.typeName}/${method.name}`;
        return new ClientCall(connection, method, path, extra);
      }),
  ]),
);

async function largeUnary(call: Client): Promise<void> {
  const { responses, status } = await call("unaryCall").all({ responseSize: 314_159, ...payloadOf(271_828) });
  deepStrictEqual(responses.map(sizeOf), [314_159]);
  strictEqual(status.code, 0);
}

async function isCancelled(talk: ClientCall): Promise<void> {
  talk.status.catch(() => {});
  const end = await talk.closed;
  deepStrictEqual(end.kind === "reset" && { by: end.by, code: end.code }, { by: "us", code: ErrorCode.CANCEL });
}

function sizeOf({ payload }: Response): number {
  return payload?.body.length ?? 0;
}

/** One gRPC call on a stream of ours. */
class ClientCall implements StreamListener {
  readonly closed: Promise<StreamEnd>;
  /** Rejects when the stream ended without one. */
  readonly status: Promise<Status>;
  headers: HeaderList | undefined;
  readonly #method: DescMethod;
  readonly #stream: WireStream;
  readonly #reader: GrpcMessageReader;
  readonly #responses: Response[] = [];
  readonly #closed = Promise.withResolvers<StreamEnd>();
  readonly #status = Promise.withResolvers<Status>();
  /** Something came. */
  #news = Promise.withResolvers<void>();

  constructor(connection: ClientConnection, method: DescMethod, path: string, extra: HeaderFields) {
    this.closed = this.#closed.promise;
    this.status = this.#status.promise;
    this.#method = method;
    this.#reader = new GrpcMessageReader({
      maxBytes: 4 * 1024 * 1024,
      encoding: undefined,
      onMessage: (bytes, start, end) => this.#responses.push(fromBinary(method.output, bytes.subarray(start, end))),
    });
    const fields: HeaderFields = [
      [":method", "POST"],
      [":scheme", "http"],
      [":path", path],
      [":authority", "localhost"],
      ["content-type", "application/grpc"],
      ["te", "trailers"],
    ];
    const stream = connection.request([...fields, ...extra], this);
    invariant(stream, "the connection has room for the stream");
    this.#stream = stream;
  }

  send(request: Fields): void {
    const { input } = this.#method;
    const bytes = toBinary(input, create(input, request));
    this.#stream.writeMessage(bytes, 0, bytes.length);
  }

  end(): void {
    this.#stream.end();
  }

  cancel(): void {
    this.#stream.reset(ErrorCode.CANCEL);
  }

  /** Sends these and no more, and waits for all that comes. */
  async all(...requests: Fields[]): Promise<{ readonly responses: readonly Response[]; readonly status: Status }> {
    for (const request of requests) this.send(request);
    this.end();
    return { status: await this.status, responses: this.#responses };
  }

  async response(index: number): Promise<Response> {
    for (;;) {
      const found = this.#responses[index];
      if (found) return found;
      this.#news = Promise.withResolvers();
      await Promise.race([this.#news.promise, this.status]);
    }
  }

  onHeaders(headers: HeaderList): void {
    strictEqual(headers.status, "200");
    this.headers = headers;
  }

  onData(bytes: Buffer, start: number, end: number): void {
    this.#reader.push(bytes, start, end);
    this.#stream.consumed(end - start);
    this.#news.resolve();
  }

  onEnd(last: HeaderList | undefined): void {
    const trailers = last ?? this.headers;
    const code = trailers?.get("grpc-status");
    if (!trailers || code === undefined) return;
    const message = decodeURIComponent(trailers.get("grpc-message") ?? "");
    this.#status.resolve({ code: Number(code), message, trailers });
  }

  onClose(end: StreamEnd): void {
    this.#closed.resolve(end);
    this.#status.reject(new Error(`the stream ended without a status: ${JSON.stringify(end)}`));
  }
}

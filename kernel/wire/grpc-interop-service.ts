import { Readable } from "node:stream";
import { type DescMethod, type DescService, type Message, create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { Code, ConnectError, type ConnectRouter, type HandlerContext } from "@connectrpc/connect";
import { grpcTimeoutMs } from "#kernel/call-timeout.ts";
import { type Timer, sleep, systemClock } from "#kernel/clock.ts";
import { GrpcMessageReader, grpcResponseFields, grpcTrailers } from "#kernel/grpc-messages.ts";
import type { HotMethod } from "#kernel/hot-method.ts";
import { invariant } from "#kernel/invariant.ts";
import type { HeaderList, StreamEnd, StreamListener, WireStream } from "#kernel/wire/index.ts";

// What is read of the messages of grpc-interop.proto, which are known at run time only.

export interface Payload {
  readonly body: Uint8Array;
}

interface EchoStatus {
  readonly code: Code | 0;
  readonly message: string;
}

interface SimpleRequest extends Message {
  readonly responseSize: number;
  readonly responseStatus?: EchoStatus;
}

interface StreamingRequest extends Message {
  readonly responseParameters: readonly { readonly size: number; readonly intervalUs: number }[];
  readonly payload?: Payload;
  readonly responseStatus?: EchoStatus;
}

/** What a method may know and say of its call besides messages, whichever way it is served. */
interface Call {
  header(name: string): string | undefined;
  setHeader(name: string, value: string): void;
  setTrailer(name: string, value: string): void;
}

type Body = (requests: AsyncIterable<Message>, call: Call) => AsyncGenerator<Record<string, unknown>>;

/** Metadata that the server sends back (interop-test-descriptions.md, "custom_metadata"). */
export const echoInitial = "x-grpc-test-echo-initial";
export const echoTrailing = "x-grpc-test-echo-trailing-bin";

/** https://github.com/grpc/grpc/blob/master/doc/interop-test-descriptions.md#server */
const bodies = {
  async *emptyCall(requests) {
    for await (const _ of requests) yield {};
  },
  async *unaryCall(requests, call) {
    echoMetadata(call);
    for await (const message of requests) {
      const { responseSize, responseStatus } = message as SimpleRequest;
      refuseAsAsked(responseStatus);
      yield { payload: { body: new Uint8Array(responseSize) }, serverId: "helixmesh" };
    }
  },
  async *streamingInputCall(requests) {
    let aggregatedPayloadSize = 0;
    for await (const message of requests)
      aggregatedPayloadSize += (message as StreamingRequest).payload?.body.length ?? 0;
    yield { aggregatedPayloadSize };
  },
  async *streamingOutputCall(requests) {
    for await (const message of requests) yield* answers(message as StreamingRequest);
  },
  async *fullDuplexCall(requests, call) {
    echoMetadata(call);
    for await (const message of requests) {
      refuseAsAsked((message as StreamingRequest).responseStatus);
      yield* answers(message as StreamingRequest);
    }
  },
  async *halfDuplexCall(requests) {
    const all: Message[] = [];
    for await (const message of requests) all.push(message);
    for (const message of all) yield* answers(message as StreamingRequest);
  },
} satisfies Record<string, Body>;

async function* answers({ responseParameters }: StreamingRequest): AsyncGenerator<Record<string, unknown>> {
  for (const { size, intervalUs } of responseParameters) {
    if (intervalUs > 0) await sleep(systemClock, intervalUs / 1_000);
    yield { payload: { body: new Uint8Array(size) } };
  }
}

function echoMetadata(call: Call): void {
  const initial = call.header(echoInitial);
  if (initial !== undefined) call.setHeader(echoInitial, initial);
  const trailing = call.header(echoTrailing);
  if (trailing !== undefined) call.setTrailer(echoTrailing, trailing);
}

function refuseAsAsked(status: EchoStatus | undefined): void {
  if (status && status.code !== 0) throw new ConnectError(status.message, status.code);
}

function eachMethod(service: DescService, visit: (method: DescMethod, body: Body) => void): void {
  for (const [name, body] of Object.entries<Body>(bodies)) {
    const method = service.method[name];
    invariant(method, `the service has the method ${name}`);
    visit(method, body);
  }
}

/** Serves grpc.testing.TestService as handlers of connect-es: the general path of a port. */
export function addInteropService(router: ConnectRouter, service: DescService): void {
  eachMethod(service, (method, body) => {
    async function* many(requests: AsyncIterable<Message>, context: HandlerContext) {
      yield* body(requests, generalCall(context));
    }
    async function single(requests: AsyncIterable<Message>, context: HandlerContext) {
      for await (const response of many(requests, context)) return response;
      throw new ConnectError("no request came", Code.Unimplemented);
    }
    switch (method.methodKind) {
      case "unary":
        return void router.rpc(method as DescMethod & { methodKind: "unary" }, (request, context) =>
          single(only(request), context),
        );
      case "client_streaming":
        return void router.rpc(method as DescMethod & { methodKind: "client_streaming" }, single);
      case "server_streaming":
        return void router.rpc(method as DescMethod & { methodKind: "server_streaming" }, (request, context) =>
          many(only(request), context),
        );
      case "bidi_streaming":
        return void router.rpc(method as DescMethod & { methodKind: "bidi_streaming" }, many);
    }
  });
}

async function* only(message: Message): AsyncGenerator<Message> {
  yield message;
}

function generalCall({ requestHeader, responseHeader, responseTrailer }: HandlerContext): Call {
  return {
    header: (name) => requestHeader.get(name) ?? undefined,
    setHeader: (name, value) => responseHeader.set(name, value),
    setTrailer: (name, value) => responseTrailer.set(name, value),
  };
}

/** Serves the same methods on their streams themselves, as the hot methods of a port do. */
export function hotInteropMethods(service: DescService): ReadonlyMap<string, HotMethod> {
  const methods = new Map<string, HotMethod>();
  eachMethod(service, (method, body) =>
    methods.set(`/${service.typeName}/${method.name}`, (stream, headers) => new HotCall(stream, headers, method, body)),
  );
  return methods;
}

/** One call of a hot method whose handler reads and writes message by message. */
class HotCall implements StreamListener, Call {
  readonly #stream: WireStream;
  readonly #headers: HeaderList;
  readonly #method: DescMethod;
  readonly #requests = new Readable({ objectMode: true, read() {} });
  readonly #reader: GrpcMessageReader;
  readonly #deadline: Timer | undefined;
  readonly #extraHeaders: [string, string][] = [];
  readonly #extraTrailers: [string, string][] = [];
  #drained: PromiseWithResolvers<void> | undefined;
  #opened = false;

  constructor(stream: WireStream, headers: HeaderList, method: DescMethod, body: Body) {
    this.#stream = stream;
    this.#headers = headers;
    this.#method = method;
    this.#requests.on("error", () => {}); // Its reader gets it too.
    this.#reader = new GrpcMessageReader({
      maxBytes: 64 * 1024 * 1024,
      encoding: headers.get("grpc-encoding"),
      onMessage: (bytes, start, end) => this.#requests.push(fromBinary(method.input, bytes.subarray(start, end))),
    });
    const timeoutMs = grpcTimeoutMs(headers.get("grpc-timeout"));
    const late = new ConnectError("The deadline is over.", Code.DeadlineExceeded);
    if (timeoutMs < Infinity) this.#deadline = systemClock.setTimer(timeoutMs, () => this.#requests.destroy(late));
    void this.#run(body);
  }

  onData(bytes: Buffer, start: number, end: number): void {
    this.#guard(() => this.#reader.push(bytes, start, end));
    this.#stream.consumed(end - start);
  }

  onEnd(): void {
    this.#guard(() => {
      this.#reader.finish();
      this.#requests.push(null);
    });
  }

  onDrain(): void {
    this.#drained?.resolve();
  }

  onClose(end: StreamEnd): void {
    this.#deadline?.cancel();
    this.#drained?.resolve();
    if (end.kind !== "complete") this.#requests.destroy(new ConnectError("The client is gone.", Code.Canceled));
  }

  header(name: string): string | undefined {
    return this.#headers.get(name);
  }

  setHeader(name: string, value: string): void {
    this.#extraHeaders.push([name, value]);
  }

  setTrailer(name: string, value: string): void {
    this.#extraTrailers.push([name, value]);
  }

  async #run(body: Body): Promise<void> {
    let error: ConnectError | undefined;
    try {
      for await (const response of body(this.#requests, this)) await this.#send(response);
    } catch (thrown) {
      error = ConnectError.from(thrown);
    }
    const trailers = [...grpcTrailers(error), ...this.#extraTrailers];
    if (this.#opened) this.#stream.end(trailers);
    else this.#stream.sendHeaders([...grpcResponseFields, ...this.#extraHeaders, ...trailers], true);
  }

  async #send(response: Record<string, unknown>): Promise<void> {
    if (!this.#opened) this.#stream.sendHeaders([...grpcResponseFields, ...this.#extraHeaders]);
    this.#opened = true;
    const { output } = this.#method;
    const bytes = toBinary(output, create(output, response));
    this.#drained = Promise.withResolvers();
    if (this.#stream.writeMessage(bytes, 0, bytes.length)) return;
    if (this.#stream.state.kind !== "closed") await this.#drained.promise;
  }

  #guard(read: () => void): void {
    try {
      read();
    } catch (error) {
      this.#requests.destroy(ConnectError.from(error));
    }
  }
}

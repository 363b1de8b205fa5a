import {
  type DescMessage,
  type DescMethod,
  type DescService,
  type FileRegistry,
  type Message,
  create,
} from "@bufbuild/protobuf";
import { type Any, anyPack } from "@bufbuild/protobuf/wkt";
import { type Code, ConnectError, type ConnectRouter, type HandlerContext } from "@connectrpc/connect";
import { sleep, systemClock } from "#kernel/clock.ts";
import { invariant } from "#kernel/invariant.ts";

// What is read of the messages of connectrpc/conformance/v1/service.proto, which are known at run time only.

interface Field {
  readonly name: string;
  readonly value: string[];
}

interface WantedError {
  readonly code: Code;
  readonly message?: string;
  readonly details: readonly Any[];
}

interface Definition {
  readonly responseHeaders: readonly Field[];
  readonly responseTrailers: readonly Field[];
  readonly responseDelayMs: number;
}

interface UnaryDefinition extends Definition {
  readonly response:
    | { readonly case: "responseData"; readonly value: Uint8Array }
    | { readonly case: "error"; readonly value: WantedError }
    | { readonly case: undefined };
}

interface StreamDefinition extends Definition {
  readonly responseData: readonly Uint8Array[];
  readonly error?: WantedError;
}

interface UnaryRequest extends Message {
  readonly responseDefinition?: UnaryDefinition;
}

interface StreamRequest extends Message {
  readonly responseDefinition?: StreamDefinition;
  readonly fullDuplex: boolean;
}

const packageName = "connectrpc.conformance.v1";
const empty = new Uint8Array(0);

/** Serves `ConformanceService` as the comments of its proto ask, but for `Unimplemented`. */
export function addConformanceService(router: ConnectRouter, registry: FileRegistry): void {
  const service = registry.getService(`${packageName}.ConformanceService`);
  const infoType = registry.getMessage(`${packageName}.ConformancePayload.RequestInfo`);
  invariant(service && infoType, "the descriptors have the service");
  const unary = methodOf(service, "unary");
  const idempotentUnary = methodOf(service, "idempotentUnary");
  const clientStream = methodOf(service, "clientStream");
  const serverStream = methodOf(service, "serverStream");
  const bidiStream = methodOf(service, "bidiStream");
  const about = new RequestInfos(infoType);
  const options = { jsonOptions: { registry } };

  async function answerOne(method: DescMethod, requests: readonly UnaryRequest[], context: HandlerContext) {
    const definition = requests[0]?.responseDefinition;
    const requestInfo = about.all(method, requests, context);
    if (!definition) return { payload: { requestInfo } };
    addMetadata(definition, context);
    await delay(definition);
    const { response } = definition;
    if (response.case === "error") throw about.error(response.value, requestInfo);
    return { payload: { requestInfo, data: response.case === undefined ? empty : response.value } };
  }

  async function* answerMany(definition: StreamDefinition, requestInfo: Message, from: number) {
    for (let index = from; index < definition.responseData.length; index++) {
      await delay(definition);
      yield { payload: { data: definition.responseData[index], ...(index === 0 && { requestInfo }) } };
    }
    if (!definition.error) return;
    throw about.error(definition.error, definition.responseData.length === 0 ? requestInfo : undefined);
  }

  for (const method of [unary, idempotentUnary]) {
    router.rpc(
      method as DescMethod & { methodKind: "unary" },
      (request, context) => answerOne(method, [request as UnaryRequest], context),
      options,
    );
  }
  async function answerStream(requests: AsyncIterable<Message>, context: HandlerContext) {
    const all: UnaryRequest[] = [];
    for await (const request of requests) all.push(request);
    return answerOne(clientStream, all, context);
  }

  async function* serve(message: Message, context: HandlerContext) {
    const request = message as StreamRequest;
    if (!request.responseDefinition) return;
    addMetadata(request.responseDefinition, context);
    yield* answerMany(request.responseDefinition, about.all(serverStream, [request], context), 0);
  }

  async function* converse(messages: AsyncIterable<Message>, context: HandlerContext) {
    let first: StreamRequest | undefined;
    let requests: StreamRequest[] = [];
    let sent = 0;
    for await (const message of messages) {
      const request = message as StreamRequest;
      requests.push(request);
      if (!first && request.responseDefinition) addMetadata(request.responseDefinition, context);
      first ??= request;
      if (!first.fullDuplex) continue;
      const data = first.responseDefinition?.responseData[sent];
      if (!first.responseDefinition || data === undefined) break;
      await delay(first.responseDefinition);
      const requestInfo = sent === 0 ? about.all(bidiStream, requests, context) : about.requests(bidiStream, requests);
      yield { payload: { data, requestInfo } };
      sent++;
      requests = [];
    }
    if (!first?.responseDefinition) return;
    yield* answerMany(first.responseDefinition, about.all(bidiStream, requests, context), sent);
  }

  router.rpc(clientStream as DescMethod & { methodKind: "client_streaming" }, answerStream, options);
  router.rpc(serverStream as DescMethod & { methodKind: "server_streaming" }, serve, options);
  router.rpc(bidiStream as DescMethod & { methodKind: "bidi_streaming" }, converse, options);
}

function methodOf(service: DescService, name: string): DescMethod {
  const method = service.method[name];
  invariant(method, `the service has the method ${name}`);
  return method;
}

/** Echoes what the server saw of a call. */
class RequestInfos {
  readonly #type: DescMessage;

  constructor(type: DescMessage) {
    this.#type = type;
  }

  requests({ input }: DescMethod, requests: readonly Message[]): Message {
    return create(this.#type, { requests: requests.map((request) => anyPack(input, request)) });
  }

  all({ input }: DescMethod, requests: readonly Message[], context: HandlerContext): Message {
    const timeoutMs = context.timeoutMs();
    const { requestMethod, url } = context;
    return create(this.#type, {
      requests: requests.map((request) => anyPack(input, request)),
      requestHeaders: [...context.requestHeader].map(([name, value]) => ({ name, value: value.split(", ") })),
      ...(timeoutMs !== undefined && { timeoutMs: BigInt(Math.round(timeoutMs)) }),
      ...(requestMethod === "GET" && {
        connectGetInfo: {
          queryParams: [...new URL(url).searchParams].map(([name, value]) => ({ name, value: [value] })),
        },
      }),
    });
  }

  /** With the request's information when the call had no answer to carry it. */
  error(wanted: WantedError, info: Message | undefined): ConnectError {
    const error = new ConnectError(wanted.message ?? "", wanted.code);
    for (const { typeUrl, value } of wanted.details) {
      error.details.push({ type: typeUrl.slice(typeUrl.lastIndexOf("/") + 1), value });
    }
    if (info) {
      const { value } = anyPack(this.#type, info);
      error.details.push({ type: this.#type.typeName, value });
    }
    return error;
  }
}

function addMetadata(definition: Definition, context: HandlerContext): void {
  for (const { name, value } of definition.responseHeaders) {
    for (const each of value) context.responseHeader.append(name, each);
  }
  for (const { name, value } of definition.responseTrailers) {
    for (const each of value) context.responseTrailer.append(name, each);
  }
}

async function delay({ responseDelayMs }: Definition): Promise<void> {
  if (responseDelayMs > 0) await sleep(systemClock, responseDelayMs);
}

import { type DescMessage, type MessageInitShape, create, fromBinary, toBinary } from "@bufbuild/protobuf";
import * as grpc from "@grpc/grpc-js";
import { type GenerateResponse, GenerateResponseSchema } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import {
  type CallEnd,
  type ConnectRequest,
  ConnectRequestSchema,
  type ConnectResponse,
  ConnectResponseSchema,
  LinkService,
  type StartCallSchema,
} from "#gen/helixmesh/link/v1/link_pb.ts";

export interface TestCall {
  readonly number: number;
  /** Resolves with the call's end. */
  readonly ended: Promise<CallEnd>;
  /** Resolves once a response came. */
  readonly responded: Promise<void>;
  readonly responses: Uint8Array[];
  /** Sum of the deltas' completion_tokens. */
  tokens(): number;
  generated(): GenerateResponse[];
  text(choiceIndex?: number): string;
}

interface Tracked extends TestCall {
  count: number;
  end(end: CallEnd): void;
  respond(): void;
}

/** A router's end of one link, on @grpc/grpc-js, for tests. */
export class TestRouter {
  /** Every frame after the hello, in order. */
  readonly frames: ConnectResponse[] = [];
  /** Resolves with the status that ended the stream. */
  readonly ended: Promise<grpc.StatusObject>;
  readonly #client: grpc.Client;
  readonly #stream: grpc.ClientDuplexStream<ConnectRequest, ConnectResponse>;
  readonly #calls = new Map<number, Tracked>();
  readonly #waiting = new Set<() => void>();
  #nextNumber = 1;

  constructor(port: number, token: string) {
    this.#client = new grpc.Client(`127.0.0.1:${port}`, grpc.credentials.createInsecure());
    const metadata = new grpc.Metadata();
    if (token !== "") metadata.set("authorization", `Bearer ${token}`);
    this.#stream = this.#client.makeBidiStreamRequest(
      `/${LinkService.typeName}/Connect`,
      (message: ConnectRequest) => Buffer.from(toBinary(ConnectRequestSchema, message)),
      (bytes: Buffer) => fromBinary(ConnectResponseSchema, bytes),
      metadata,
    );
    this.#stream.on("data", (frame: ConnectResponse) => this.#receive(frame));
    // The status event says the same.
    this.#stream.on("error", () => {});
    this.ended = new Promise((resolve) => this.#stream.on("status", resolve));
  }

  send(frame: Exclude<MessageInitShape<typeof ConnectRequestSchema>, ConnectRequest>["frame"]): void {
    this.#stream.write(create(ConnectRequestSchema, frame && { frame }));
  }

  hello(versions: number[] = [1], instanceId = ""): Promise<ConnectResponse> {
    this.send({ case: "hello", value: { versions, routerId: "test-router", instanceId } });
    return this.frame((frame) => frame.frame.case === "hello");
  }

  start(fields: Exclude<MessageInitShape<typeof StartCallSchema>, { $typeName: string }>): TestCall {
    return this.startAll([fields])[0] ?? neverStarted();
  }

  /** All in one message, as a router does within one event-loop turn. */
  startAll(all: readonly Exclude<MessageInitShape<typeof StartCallSchema>, { $typeName: string }>[]): TestCall[] {
    const starts = all.map((fields) => ({
      number: this.#nextNumber++,
      callId: `call-${this.#nextNumber}`,
      model: "m",
      ...fields,
    }));
    const calls = starts.map(({ number }) => this.#track(number));
    this.send({ case: "calls", value: { starts } });
    return calls;
  }

  /** Takes up a call that the agent holds. */
  takeUp(fields: { callId: string; keyId: string; requestSha256: Uint8Array }): TestCall {
    const number = this.#nextNumber++;
    const call = this.#track(number);
    this.send({ case: "calls", value: { resumes: [{ number, ...fields }] } });
    return call;
  }

  /** Asks where calls are. */
  find(...finds: { callId: string; keyId: string }[]): void {
    this.send({ case: "calls", value: { finds } });
  }

  cancel(...cancels: number[]): void {
    this.send({ case: "calls", value: { cancels } });
  }

  /** The first frame, past or future, that fits. */
  async frame(fits: (frame: ConnectResponse) => boolean): Promise<ConnectResponse> {
    for (;;) {
      const found = this.frames.find(fits);
      if (found !== undefined) return found;
      await new Promise<void>((resolve) => this.#waiting.add(resolve));
    }
  }

  /** Stops reading: the agent's answers pile up. */
  pause(): void {
    this.#stream.pause();
  }

  resume(): void {
    this.#stream.resume();
  }

  close(): void {
    this.#stream.cancel();
    this.#client.close();
  }

  #receive(frame: ConnectResponse): void {
    this.frames.push(frame);
    if (frame.frame.case === "step") {
      for (const delta of frame.frame.value.deltas) {
        const call = this.#calls.get(delta.number);
        if (call === undefined) continue;
        call.responses.push(...delta.responses);
        call.count += delta.completionTokens;
        if (delta.responses.length > 0) call.respond();
        if (delta.end !== undefined) call.end(delta.end);
      }
    }
    for (const resolve of this.#waiting) resolve();
    this.#waiting.clear();
  }

  #track(number: number): TestCall {
    const ended = Promise.withResolvers<CallEnd>();
    const responded = Promise.withResolvers<void>();
    const call: Tracked = {
      number,
      ended: ended.promise,
      responded: responded.promise,
      responses: [],
      count: 0,
      tokens: () => call.count,
      end: ended.resolve,
      respond: responded.resolve,
      generated: () => call.responses.map((bytes) => fromBinary(GenerateResponseSchema, bytes)),
      text: (choiceIndex = 0) =>
        call
          .generated()
          .map(({ event }) =>
            event.case === "delta" && event.value.choiceIndex === choiceIndex ? event.value.text : "",
          )
          .join(""),
    };
    this.#calls.set(number, call);
    return call;
  }
}

export function encode<D extends DescMessage>(schema: D, init: MessageInitShape<D>): Uint8Array {
  return toBinary(schema, create(schema, init));
}

function neverStarted(): never {
  throw new Error("no call was started");
}

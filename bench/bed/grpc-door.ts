import { fromBinary } from "@bufbuild/protobuf";
import { GenerateRequestSchema } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { GrpcMessageReader, grpcOkTrailers, grpcResponseHeaders } from "#kernel/grpc-messages.ts";
import type { StreamListener, WireStream } from "#kernel/wire/index.ts";
import { deltaBytes, finishedBytes, startedBytes } from "./answer.ts";
import type { BedEngine, EngineCall } from "./engine.ts";
import { promptOf } from "./prompt.ts";

/** `InferenceService.Generate` straight on an engine: what stands behind a proxy that relays gRPC as it comes. */
export class GrpcDoor implements StreamListener {
  readonly #stream: WireStream;
  readonly #engine: BedEngine;
  readonly #reader: GrpcMessageReader;
  #call: EngineCall | undefined;

  constructor(stream: WireStream, engine: BedEngine) {
    this.#stream = stream;
    this.#engine = engine;
    this.#reader = new GrpcMessageReader({
      maxBytes: 1 << 28,
      encoding: undefined,
      onMessage: (bytes, start, end) => this.#start(bytes.subarray(start, end)),
    });
  }

  onData(bytes: Buffer, start: number, end: number): void {
    this.#stream.consumed(end - start);
    this.#reader.push(bytes, start, end);
  }

  onEnd(): void {}

  onClose(): void {
    this.#call?.cancel();
  }

  #start(bytes: Uint8Array): void {
    const request = fromBinary(GenerateRequestSchema, bytes);
    const prompt = promptOf(request, bytes.length);
    const tokens = request.maxOutputTokens ?? 16;
    const call = this.#engine.start(tokens, prompt, {
      advance: ({ index, first, last }) => {
        if (first) {
          this.#stream.sendHeaders(grpcResponseHeaders);
          this.#send(startedBytes("bench", request.model, prompt.tokens, prompt.cachedTokens(call)));
        }
        this.#send(deltaBytes(index, last));
        if (!last) return;
        this.#send(finishedBytes(prompt.tokens, tokens));
        this.#stream.end(grpcOkTrailers);
      },
    });
    this.#call = call;
  }

  #send(message: Uint8Array): void {
    this.#stream.writeMessage(message, 0, message.length);
  }
}

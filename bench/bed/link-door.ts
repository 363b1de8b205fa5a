import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { GenerateRequestSchema } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import {
  CallEndSchema,
  type ConnectResponse,
  ConnectRequestSchema,
  ConnectResponseSchema,
  PrefixDigestSchema,
  type StartCall,
  StepBatchSchema,
} from "#gen/helixmesh/link/v1/link_pb.ts";
import { ReplicaState } from "#gen/helixmesh/type/v1/type_pb.ts";
import { GrpcMessageReader, grpcResponseHeaders } from "#kernel/grpc-messages.ts";
import type { StreamListener, WireStream } from "#kernel/wire/index.ts";
import { deltaBytes, finishedBytes, startedBytes } from "./answer.ts";
import type { BedEngine, EngineCall } from "./engine.ts";
import { prefixBlockBytes, promptOf } from "./prompt.ts";
import { StepWriter } from "./step-writer.ts";

export interface LinkDoorOptions {
  readonly nodeId: string;
  readonly replicaId: string;
  readonly engine: BedEngine;
}

const heartbeatMs = 1_000;
const parallelSequences = 1_000_000;

/**
 * `LinkService.Connect` as a node agent serves it (link.proto), on the test bed's engine: everything of a step, with the
 * replica's load and its changed prefixes, in one message.
 */
export class LinkDoor implements StreamListener {
  readonly #options: LinkDoorOptions;
  readonly #stream: WireStream;
  readonly #reader: GrpcMessageReader;
  readonly #calls = new Map<number, EngineCall>();
  readonly #step = new StepWriter();
  readonly #heartbeat: NodeJS.Timeout;
  #flushing = false;
  #sinceHeartbeat = false;
  #digests = 0n;

  constructor(stream: WireStream, options: LinkDoorOptions) {
    this.#stream = stream;
    this.#options = options;
    stream.sendHeaders(grpcResponseHeaders);
    this.#reader = new GrpcMessageReader({
      maxBytes: 1 << 28,
      encoding: undefined,
      onMessage: (bytes, start, end) => this.#receive(bytes.subarray(start, end)),
    });
    this.#heartbeat = setInterval(() => {
      if (!this.#sinceHeartbeat) this.#flush();
      this.#sinceHeartbeat = false;
    }, heartbeatMs);
  }

  onData(bytes: Buffer, start: number, end: number): void {
    this.#stream.consumed(end - start);
    this.#reader.push(bytes, start, end);
  }

  onEnd(): void {
    this.#stream.end([["grpc-status", "0"]]);
  }

  onClose(): void {
    clearInterval(this.#heartbeat);
    for (const call of this.#calls.values()) call.cancel();
  }

  #receive(bytes: Uint8Array): void {
    const { frame } = fromBinary(ConnectRequestSchema, bytes);
    switch (frame.case) {
      case "hello":
        return this.#greet();
      case "calls":
        for (const start of frame.value.starts) this.#start(start);
        for (const number of frame.value.cancels) this.#cancel(number);
        if (frame.value.resendPrefixes.length > 0) this.#sendDigest(true);
        return;
      case undefined:
    }
  }

  #greet(): void {
    const { nodeId, replicaId } = this.#options;
    const capabilities = { generate: true, chat: true, contextTokens: 1_000_000, parallelSequences };
    const replicas = [{ replicaId, state: ReplicaState.READY, capabilities }];
    const hello = { version: 1, nodeId, heartbeatIntervalMs: heartbeatMs, replicas, prefixBlockBytes };
    this.#send(create(ConnectResponseSchema, { frame: { case: "hello", value: hello } }));
    this.#flush();
    this.#sendDigest(true);
  }

  #start({ number, callId, model, request }: StartCall): void {
    const generate = fromBinary(GenerateRequestSchema, request);
    const prompt = promptOf(generate, request.length);
    const tokens = generate.maxOutputTokens ?? 16;
    const call = this.#options.engine.start(tokens, prompt, {
      advance: ({ index, first, last }) => {
        this.#step.begin(number);
        if (first) this.#step.response(startedBytes(callId, model, prompt.tokens, prompt.cachedTokens(call)));
        this.#step.response(deltaBytes(index, last));
        if (last) {
          this.#calls.delete(number);
          this.#step.response(finishedBytes(prompt.tokens, tokens));
          const usage = { promptTokens: prompt.tokens, completionTokens: tokens };
          this.#step.end(toBinary(CallEndSchema, create(CallEndSchema, { usage })));
        }
        this.#step.finish(1);
        this.#flushSoon();
      },
    });
    this.#calls.set(number, call);
  }

  #cancel(number: number): void {
    const call = this.#calls.get(number);
    if (call === undefined) return;
    this.#calls.delete(number);
    call.cancel();
    this.#step.begin(number);
    this.#step.end(toBinary(CallEndSchema, create(CallEndSchema, { reason: Reason.CANCELLED, message: "cancelled" })));
    this.#step.finish(0);
    this.#flushSoon();
  }

  /** Behind all that the engine does in this step. */
  #flushSoon(): void {
    if (this.#flushing) return;
    this.#flushing = true;
    queueMicrotask(() => {
      this.#flushing = false;
      this.#flush();
      this.#sendDigest(false);
    });
  }

  #flush(): void {
    this.#sinceHeartbeat = true;
    const { engine, replicaId } = this.#options;
    const load = { replicaId, running: engine.running, kvTotalTokens: 1_000_000_000n, stepTimeUs: 10_000 };
    const { bytes, start, end } = this.#step.take(
      toBinary(StepBatchSchema, create(StepBatchSchema, { loads: [load] })),
    );
    this.#stream.writeMessage(bytes, start, end);
  }

  #sendDigest(snapshot: boolean): void {
    const { engine, replicaId } = this.#options;
    const changes = engine.cache.takeChanges();
    if (!snapshot && changes === undefined) return;
    const news = snapshot ? { added: engine.cache.all, removed: [] } : changes;
    this.#digests += 1n;
    const digest = create(PrefixDigestSchema, { replicaId, sequence: this.#digests, snapshot, ...news });
    this.#send(create(ConnectResponseSchema, { frame: { case: "step", value: { prefixes: [digest] } } }));
  }

  #send(message: ConnectResponse): void {
    const bytes = toBinary(ConnectResponseSchema, message);
    this.#stream.writeMessage(bytes, 0, bytes.length);
  }
}

import { type MessageInitShape, create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { type Metadata, Server, ServerCredentials, type ServerDuplexStream, status } from "@grpc/grpc-js";
import { Reason } from "#gen/helixmesh/error/v1/error_pb.ts";
import { FinishReason, GenerateResponseSchema } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import {
  type CallEnd,
  CallEndSchema,
  type ConnectRequest,
  ConnectRequestSchema,
  type ConnectResponse,
  ConnectResponseSchema,
  LinkService,
  type StartCall,
} from "#gen/helixmesh/link/v1/link_pb.ts";
import { EngineCapabilitiesSchema, ReplicaLoadSchema, ReplicaState } from "#gen/helixmesh/type/v1/type_pb.ts";
import { type Timer, systemClock } from "#kernel/clock.ts";

/** The init form of the message, without the message itself. */
type Capabilities = Exclude<MessageInitShape<typeof EngineCapabilitiesSchema>, { $typeName: string }>;
type Stream = ServerDuplexStream<ConnectRequest, ConnectResponse>;

/** A call as the test agent got it; the test decides what happens to it. */
export interface AgentCall {
  readonly start: StartCall;
  readonly cancelled: Promise<void>;
  /** Sends Started. */
  started(promptTokens?: number): void;
  /** Sends one delta of `text` that counts as `tokens` generated tokens. */
  text(text: string, tokens?: number): void;
  /** Sends a response message of any kind, with `tokens` generated for it. */
  send(response: Uint8Array, tokens?: number): void;
  /** Sends Finished and ends the call well. */
  finish(): void;
  end(end: MessageInitShape<typeof CallEndSchema>): void;
}

/** Options of the agent; each has a default. */
export interface TestAgentOptions {
  readonly nodeId?: string;
  readonly replicaIds?: readonly string[];
  readonly capabilities?: Capabilities;
  readonly linkToken?: string;
  readonly heartbeatIntervalMs?: number;
  readonly port?: number;
  /** Versions it claims in its hello. */
  readonly version?: number;
  /** Sends no heartbeats, as an agent that hangs. */
  readonly mute?: boolean;
  readonly onCall?: (call: AgentCall) => void;
}

/** Answers like an echo of a fixed story: Started, three tokens, Finished. */
export function tellStory(call: AgentCall): void {
  call.started(5);
  call.text("Once ");
  call.text("upon ");
  call.text("a time.");
  call.finish();
}

/** An agent for tests: a real gRPC server of LinkService whose calls are answered by the test, not by an engine. */
export class TestAgent {
  readonly options: Required<TestAgentOptions>;
  readonly #server = new Server();
  readonly #streams = new Set<Stream>();
  readonly #arrivals: AgentCall[] = [];
  readonly #waiters: ((call: AgentCall) => void)[] = [];
  readonly #connections: ((count: number) => void)[] = [];
  /** Every start and cancel batch received, for tests of batching. */
  readonly batches: { readonly starts: number; readonly cancels: number }[] = [];
  connectionCount = 0;
  state: ReplicaState = ReplicaState.READY;
  #progress: number | undefined;
  port = 0;

  private constructor(options: TestAgentOptions) {
    this.options = {
      nodeId: "node-1",
      replicaIds: ["replica-1"],
      linkToken: "link-token",
      heartbeatIntervalMs: 1_000,
      port: 0,
      version: 1,
      mute: false,
      onCall: (call) => this.#arrive(call),
      ...options,
      capabilities: {
        generate: true,
        chat: true,
        embed: true,
        seed: true,
        contextTokens: 2048,
        ...options.capabilities,
      },
    };
  }

  static async start(options: TestAgentOptions = {}): Promise<TestAgent> {
    const agent = new TestAgent(options);
    await agent.#listen();
    return agent;
  }

  get address(): string {
    return `127.0.0.1:${this.port}`;
  }

  /** The next call that no `onCall` takes, in order of arrival. */
  nextCall(): Promise<AgentCall> {
    const call = this.#arrivals.shift();
    return call ? Promise.resolve(call) : new Promise((resolve) => this.#waiters.push(resolve));
  }

  /** Announces a new state of all replicas, and how far they are in it. */
  setState(state: ReplicaState, progress?: number): void {
    this.state = state;
    this.#progress = progress;
    this.#broadcast({ case: "step", value: { replicas: this.#infos() } });
  }

  sendLoad(load: MessageInitShape<typeof ReplicaLoadSchema>): void {
    this.#broadcast({ case: "step", value: { loads: [create(ReplicaLoadSchema, load)] } });
  }

  drain(): void {
    this.#broadcast({ case: "drain", value: { timeoutMs: 1_000n } });
  }

  /** Cuts every stream, as a host that dies. */
  dropStreams(): void {
    for (const stream of this.#streams) stream.emit("error", { code: status.UNAVAILABLE, details: "gone" });
    this.#streams.clear();
  }

  /** Resolves once `count` routers have said hello since the start. */
  async connected(count = 1): Promise<void> {
    while (this.connectionCount < count) {
      await new Promise<void>((resolve) => this.#connections.push(() => resolve()));
    }
  }

  async close(): Promise<void> {
    this.dropStreams();
    this.#server.forceShutdown();
    await Promise.resolve();
  }

  async #listen(): Promise<void> {
    this.#server.addService(
      {
        connect: {
          path: `/${LinkService.typeName}/${LinkService.method.connect.name}`,
          requestStream: true,
          responseStream: true,
          requestSerialize: (message: ConnectRequest) => Buffer.from(toBinary(ConnectRequestSchema, message)),
          requestDeserialize: (bytes: Buffer) => fromBinary(ConnectRequestSchema, bytes),
          responseSerialize: (message: ConnectResponse) => Buffer.from(toBinary(ConnectResponseSchema, message)),
          responseDeserialize: (bytes: Buffer) => fromBinary(ConnectResponseSchema, bytes),
        },
      },
      { connect: (stream: Stream) => this.#serve(stream) },
    );
    this.port = await new Promise<number>((resolve, reject) => {
      const address = `127.0.0.1:${this.options.port}`;
      this.#server.bindAsync(address, ServerCredentials.createInsecure(), (error, port) =>
        error ? reject(error) : resolve(port),
      );
    });
  }

  #serve(stream: Stream): void {
    if (!sameToken(stream.metadata, this.options.linkToken)) {
      stream.emit("error", { code: status.UNAUTHENTICATED, details: "wrong link token" });
      return;
    }
    const calls = new Map<number, () => void>();
    let heartbeat: Timer | undefined;
    const beat = (): void => {
      heartbeat = systemClock.setTimer(this.options.heartbeatIntervalMs, () => {
        this.#send(stream, { case: "step", value: {} });
        beat();
      });
    };
    const stop = (): void => {
      heartbeat?.cancel();
      this.#streams.delete(stream);
    };
    stream.on("data", (message: ConnectRequest) => {
      switch (message.frame.case) {
        case "hello":
          this.#streams.add(stream);
          this.#send(stream, {
            case: "hello",
            value: {
              version: this.options.version,
              nodeId: this.options.nodeId,
              heartbeatIntervalMs: this.options.heartbeatIntervalMs,
              replicas: this.#infos(),
            },
          });
          if (!this.options.mute) beat();
          this.connectionCount += 1;
          for (const told of this.#connections.splice(0)) told(this.connectionCount);
          return;
        case "calls":
          this.batches.push({ starts: message.frame.value.starts.length, cancels: message.frame.value.cancels.length });
          for (const start of message.frame.value.starts) this.options.onCall(this.#call(stream, start, calls));
          for (const number of message.frame.value.cancels) calls.get(number)?.();
          return;
        case undefined:
          return;
      }
    });
    stream.on("end", () => {
      stop();
      stream.end();
    });
    stream.on("cancelled", stop);
    stream.on("error", stop);
  }

  #call(stream: Stream, start: StartCall, calls: Map<number, () => void>): AgentCall {
    let promptTokens = 0;
    let completionTokens = 0;
    const { promise: cancelled, resolve } = Promise.withResolvers<void>();
    const delta = (responses: Uint8Array[], tokens: number, end?: CallEnd): void => {
      completionTokens += tokens;
      const news = { number: start.number, responses, completionTokens: tokens, ...(end && { end }) };
      this.#send(stream, { case: "step", value: { deltas: [news] } });
      if (end) calls.delete(start.number);
    };
    const usage = (): CallEnd["usage"] => create(CallEndSchema, { usage: { promptTokens, completionTokens } }).usage;
    const call: AgentCall = {
      start,
      cancelled,
      started(tokens = 5) {
        promptTokens = tokens;
        const value = { callId: start.callId, model: start.model, promptTokens: tokens };
        const message = create(GenerateResponseSchema, { event: { case: "started", value } });
        delta([toBinary(GenerateResponseSchema, message)], 0);
      },
      text(text, tokens = 1) {
        const message = create(GenerateResponseSchema, { event: { case: "delta", value: { text } } });
        delta([toBinary(GenerateResponseSchema, message)], tokens);
      },
      send: (response, tokens = 0) => delta([response], tokens),
      finish() {
        const message = create(GenerateResponseSchema, {
          event: {
            case: "finished",
            value: { finishReasons: [FinishReason.STOP], usage: { promptTokens, completionTokens } },
          },
        });
        const end = create(CallEndSchema);
        const counted = usage();
        if (counted) end.usage = counted;
        delta([toBinary(GenerateResponseSchema, message)], 0, end);
      },
      end: (end) => delta([], 0, create(CallEndSchema, end)),
    };
    calls.set(start.number, () => {
      resolve();
      const end = create(CallEndSchema, { reason: Reason.CANCELLED, message: "cancelled" });
      const counted = usage();
      if (counted) end.usage = counted;
      delta([], 0, end);
    });
    return call;
  }

  #arrive(call: AgentCall): void {
    const waiter = this.#waiters.shift();
    if (waiter) waiter(call);
    else this.#arrivals.push(call);
  }

  #infos() {
    return this.options.replicaIds.map((replicaId) => ({
      replicaId,
      state: this.state,
      capabilities: create(EngineCapabilitiesSchema, this.options.capabilities),
      ...(this.#progress !== undefined && { progress: this.#progress }),
    }));
  }

  #send(stream: Stream, frame: MessageInitShape<typeof ConnectResponseSchema>["frame"] & object): void {
    if (!stream.writable) return;
    stream.write(create(ConnectResponseSchema, { frame }));
  }

  #broadcast(frame: MessageInitShape<typeof ConnectResponseSchema>["frame"] & object): void {
    for (const stream of this.#streams) this.#send(stream, frame);
  }
}

function sameToken(metadata: Metadata, token: string): boolean {
  return metadata.get("authorization")[0] === `Bearer ${token}`;
}

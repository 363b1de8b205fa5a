import { create, toBinary } from "@bufbuild/protobuf";
import { GenerateRequestSchema } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import { GrpcMessageReader } from "#kernel/grpc-messages.ts";
import {
  type ClientConnection,
  type ConnectionEnd,
  type HeaderFields,
  type HeaderList,
  type StreamEnd,
  type StreamListener,
  type WireStream,
  connectWire,
} from "#kernel/wire/index.ts";
import { deltaBytes } from "./answer.ts";
import { bedWire } from "./bed-wire.ts";
import type { Job, Load, Tally } from "./job.ts";
import { promptText } from "./prompt-text.ts";

/** First byte of a GenerateResponse: the tag of its one event. */
const tag = { started: 0x0a, delta: 0x12, finished: 0x1a } as const;

/** Generate over `connections` HTTP/2 connections in turn. */
export async function openGrpcLoad(job: Job, tally: Tally): Promise<Load> {
  const wire = bedWire();
  const connections: ClientConnection[] = [];
  let closing = false;
  for (let at = 0; at < job.connections; at++) {
    const onClose = ({ code, reason }: ConnectionEnd): void => {
      if (!closing) tally.fault(`a connection ended with code ${code}: ${reason}`);
    };
    connections.push(await connectWire(wire, { host: "127.0.0.1", port: job.port, onClose }));
  }
  const fields: HeaderFields = [
    [":method", "POST"],
    [":scheme", "http"],
    [":authority", `127.0.0.1:${job.port}`],
    [":path", "/helixmesh.inference.v1.InferenceService/Generate"],
    ["te", "trailers"],
    ["content-type", "application/grpc"],
    ["user-agent", "helixmesh-bench"],
    ["authorization", `Bearer ${job.key}`],
  ];
  const request = framed(
    toBinary(
      GenerateRequestSchema,
      create(GenerateRequestSchema, {
        model: "bench",
        input: { case: "prompt", value: promptText(job.promptBytes) },
        maxOutputTokens: job.tokens,
      }),
    ),
  );
  let turn = 0;
  return {
    start(arrivedMs, onDone) {
      const connection = connections[turn++ % connections.length];
      const call = new Call(job, tally, arrivedMs, onDone);
      const stream = connection?.request(fields, call);
      if (stream === undefined) {
        setImmediate(() => call.onClose({ kind: "lost", reason: "no stream to be had", unprocessed: true }));
        return;
      }
      call.stream = stream;
      stream.write(request);
      stream.end();
    },
    close() {
      closing = true;
      for (const connection of connections) connection.destroy();
    },
  };
}

/** Checks that the answer is what the test bed's engines give, token by token, and ends with status 0. */
class Call implements StreamListener {
  stream: WireStream | undefined;
  readonly #job: Job;
  readonly #tally: Tally;
  readonly #onDone: () => void;
  readonly #reader: GrpcMessageReader;
  #lastMs: number;
  #tokens = 0;
  #state: "new" | "started" | "finished" = "new";
  #status: string | undefined;
  #fault: string | undefined;

  constructor(job: Job, tally: Tally, arrivedMs: number, onDone: () => void) {
    this.#job = job;
    this.#tally = tally;
    this.#lastMs = arrivedMs;
    this.#onDone = onDone;
    this.#reader = new GrpcMessageReader({
      maxBytes: 1 << 20,
      encoding: undefined,
      onMessage: (bytes, start, end) => this.#message(bytes, start, end),
    });
    tally.started += 1;
  }

  onHeaders(headers: HeaderList): void {
    this.#status = headers.get("grpc-status");
    if (headers.status !== "200") this.#fault ??= `HTTP status ${headers.status}`;
    if (this.#status !== undefined) this.#fault ??= `status ${this.#status}: ${headers.get("grpc-message")}`;
  }

  onData(bytes: Buffer, start: number, end: number): void {
    this.#reader.push(bytes, start, end);
    this.stream?.consumed(end - start);
  }

  onEnd(trailers: HeaderList | undefined): void {
    this.#status ??= trailers?.get("grpc-status");
    if (this.#status !== "0") this.#fault ??= `status ${this.#status}: ${trailers?.get("grpc-message")}`;
  }

  onClose(end: StreamEnd): void {
    const { tokens } = this.#job;
    if (end.kind !== "complete" && this.#status !== "0") this.#fault ??= `stream ${end.kind}: ${end.reason}`;
    if (this.#tokens !== tokens || this.#state !== "finished") {
      this.#fault ??= `${this.#tokens} of ${tokens} tokens came, state ${this.#state}`;
    }
    if (this.#fault === undefined) this.#tally.calls += 1;
    else this.#tally.fault(this.#fault);
    this.#onDone();
  }

  #message(bytes: Buffer, start: number, end: number): void {
    switch (bytes[start]) {
      case tag.started:
        if (this.#state !== "new") this.#fault ??= "Started came twice or late";
        this.#state = "started";
        return;
      case tag.delta:
        return this.#token(bytes, start, end);
      case tag.finished:
        this.#state = "finished";
        return;
      default:
        this.#fault ??= "a message that is no event";
    }
  }

  #token(bytes: Buffer, start: number, end: number): void {
    const index = this.#tokens++;
    const expected = deltaBytes(index, this.#tokens === this.#job.tokens);
    if (this.#state !== "started" || bytes.compare(expected, 0, expected.length, start, end) !== 0) {
      this.#fault ??= `token ${index} is not the one expected`;
    }
    this.#tally.tokens += 1;
    const nowMs = performance.now();
    (index === 0 ? this.#tally.ttftMs : this.#tally.gapMs).push(nowMs - this.#lastMs);
    this.#lastMs = nowMs;
  }
}

function framed(message: Uint8Array): Buffer {
  const bytes = Buffer.alloc(5 + message.length);
  bytes.writeUInt32BE(message.length, 1);
  bytes.set(message, 5);
  return bytes;
}

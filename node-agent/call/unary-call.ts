import { create } from "@bufbuild/protobuf";
import type { StartCall } from "#gen/helixmesh/link/v1/link_pb.ts";
import { type Usage, UsageSchema } from "#gen/helixmesh/type/v1/type_pb.ts";
import { MeshError } from "#kernel/mesh-error.ts";
import type { CallSink, RunningCall } from "../link/index.ts";
import type { CallEnvironment, CallTarget } from "./call-environment.ts";
import { CallRecord, type Operation } from "./call-record.ts";

export interface UnaryAnswer {
  readonly response: Uint8Array;
  /** Undefined where nothing was used: no usage record is written. */
  readonly usage: Usage | undefined;
}

export interface UnaryOptions {
  readonly operation: Operation;
  readonly labels: Record<string, string>;
  readonly run: (target: CallTarget) => Promise<UnaryAnswer>;
}

/** A call with one answer. A cancelled one ends at once; what the engine still brings is dropped. */
export class UnaryCall implements RunningCall {
  readonly #record: CallRecord;
  readonly #options: UnaryOptions;
  readonly #sink: CallSink;
  readonly #start: StartCall;
  readonly #environment: CallEnvironment;

  constructor(environment: CallEnvironment, start: StartCall, options: UnaryOptions, sink: CallSink) {
    this.#environment = environment;
    this.#start = start;
    this.#options = options;
    this.#sink = sink;
    this.#record = new CallRecord(environment, start, sink, options.operation, (error) => this.cancel(error));
  }

  /** Once, right after construction. */
  begin(): void {
    void this.#run();
  }

  cancel(error: MeshError): void {
    this.#record.end(error, { usage: create(UsageSchema), taken: false, labels: this.#options.labels });
  }

  async #run(): Promise<void> {
    try {
      const { response, usage } = await this.#options.run(this.#environment.target(this.#start.replicaId));
      if (this.#record.ended) return;
      this.#sink.push([response], 0);
      const { labels } = this.#options;
      this.#record.end(undefined, { usage: usage ?? create(UsageSchema), taken: usage !== undefined, labels });
    } catch (error) {
      this.cancel(MeshError.from(error));
    }
  }
}

import type { TraceShape } from "./conversations.ts";

export type Protocol = "grpc" | "sse" | "chat";

/** What a load process does in one go. */
export interface Job {
  /** gRPC Generate; streamed or whole OpenAI chat completions over HTTP/1.1. */
  readonly protocol: Protocol;
  readonly port: number;
  readonly key: string;
  /** Further header fields, which a contestant needs to find its backend. */
  readonly headers?: Readonly<Record<string, string>>;
  readonly connections: number;
  /** At once on each connection; for HTTP/1.1 always 1. */
  readonly streams: number;
  readonly tokens: number;
  /** Of the prompt, about. */
  readonly promptBytes: number;
  /** Between two steps of the engines: calls start spread over what an answer takes. */
  readonly stepMs: number;
  /** Calls a second that come whatever became of those before (open loop); without it each stream is always in use. */
  readonly arrivalsPerS?: number;
  /** Conversations instead of one prompt for all; OpenAI only. */
  readonly trace?: TraceShape;
  /** Exactly so many, all of them measured, whatever time they take; for comparing what depends on how much was done. */
  readonly calls?: number;
  readonly warmUpMs: number;
  readonly measureMs: number;
  /** Root of the process tree whose CPU and memory count. */
  readonly pid: number;
}

export interface Percentiles {
  readonly p50: number;
  readonly p99: number;
}

export interface Outcome {
  /** Ended, and tokens that came, within the measured time. */
  readonly calls: number;
  readonly tokens: number;
  /** Of all calls, also those around the measured time. */
  readonly started: number;
  readonly seconds: number;
  readonly cpuSeconds: number;
  /** Resident memory of the process tree before the first call, and at the end of the measured time. */
  readonly residentBefore: number;
  readonly residentBytes: number;
  readonly ttftMs: Percentiles;
  /** Between two tokens of a stream. */
  readonly gapMs: Percentiles;
}

/** Different ones that are remembered. */
const mostFaults = 5;

/** A load's count of what happens; what is recorded outside the measured time is dropped. */
export class Tally {
  calls = 0;
  tokens = 0;
  started = 0;
  /** How many calls had which fault. */
  readonly faults = new Map<string, number>();
  readonly ttftMs: number[] = [];
  readonly gapMs: number[] = [];

  reset(): void {
    this.calls = 0;
    this.tokens = 0;
    this.ttftMs.length = 0;
    this.gapMs.length = 0;
  }

  fault(text: string): void {
    if (this.faults.has(text) || this.faults.size < mostFaults) this.faults.set(text, (this.faults.get(text) ?? 0) + 1);
  }
}

/** Starts one call; `onDone` comes once, after its tally. */
export type StartCall = (arrivedMs: number, onDone: () => void) => void;

export interface Load {
  readonly start: StartCall;
  close(): void;
}

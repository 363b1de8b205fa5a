import { GenerateResponseSchema, StartedSchema } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import type { Usage } from "#gen/helixmesh/type/v1/type_pb.ts";
import { ProtoScanner } from "#kernel/proto-scanner.ts";

const started = GenerateResponseSchema.field.started.number;
const { promptTokens, cachedTokens } = StartedSchema.field;
const scanner = new ProtoScanner();

/** The times and tokens of a settlement. */
export interface TallyResult {
  readonly promptTokens: number;
  readonly cachedTokens: number;
  readonly completionTokens: number;
  /** Undefined when no token came. */
  readonly ttftMs: number | undefined;
  /** Mean between the tokens after the first step's; undefined with fewer than two steps. */
  readonly interTokenMs: number | undefined;
}

/** What one call has cost so far, counted without decoding what is relayed. Times are those of the monotonic clock. */
export class Tally {
  #promptTokens = 0;
  #cachedTokens = 0;
  #completionTokens = 0;
  #firstTokenMs: number | undefined;
  #lastTokenMs = 0;
  /** Tokens of the first step; the rest are spread between first and last. */
  #firstTokens = 0;

  /** As Started says it; 0 before. */
  get promptTokens(): number {
    return this.#promptTokens;
  }

  /** Lent bytes: the one response that is looked into, Started. */
  started(bytes: Uint8Array, start: number, end: number): void {
    scanner.reset(bytes, start, end);
    if (!scanner.next() || !scanner.is(started)) return;
    this.#promptTokens = 0;
    this.#cachedTokens = 0;
    scanner.reset(bytes, scanner.start, scanner.end);
    while (scanner.next()) {
      if (scanner.field === promptTokens.number) this.#promptTokens = scanner.value;
      else if (scanner.field === cachedTokens.number) this.#cachedTokens = scanner.value;
    }
  }

  /** Tokens that the client hears of. */
  relayed(tokens: number, nowMs: number): void {
    this.#completionTokens += tokens;
    if (this.#firstTokenMs === undefined) {
      this.#firstTokenMs = nowMs;
      this.#firstTokens = tokens;
    }
    this.#lastTokenMs = nowMs;
  }

  /** Tokens that were generated in vain, after the call was cancelled. */
  wasted(tokens: number): void {
    this.#completionTokens += tokens;
  }

  /** The attempt failed, and nothing of it counts. */
  restart(): void {
    this.#completionTokens = 0;
    this.#firstTokenMs = undefined;
    this.#firstTokens = 0;
  }

  /** The agent's count is the truth; without it (a lost node) what came is. */
  result(usage: Usage | undefined, startMs: number): TallyResult {
    const first = this.#firstTokenMs;
    const laterTokens = this.#completionTokens - this.#firstTokens;
    return {
      promptTokens: usage?.promptTokens || this.#promptTokens,
      cachedTokens: usage?.cachedTokens || this.#cachedTokens,
      completionTokens: usage?.completionTokens || this.#completionTokens,
      ttftMs: first === undefined ? undefined : first - startMs,
      interTokenMs: first !== undefined && laterTokens > 0 ? (this.#lastTokenMs - first) / laterTokens : undefined,
    };
  }
}

import { GenerateResponseSchema, StartedSchema } from "#gen/helixmesh/inference/v1/inference_pb.ts";
import type { Usage } from "#gen/helixmesh/type/v1/type_pb.ts";
import { ProtoScanner } from "#kernel/proto-scanner.ts";
import type { LinkCall } from "../link/link-call.ts";

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

/** Of a call that somebody else accounts for. */
export const nothingCounted: TallyResult = {
  promptTokens: 0,
  cachedTokens: 0,
  completionTokens: 0,
  ttftMs: undefined,
  interTokenMs: undefined,
};

const nobody: readonly LinkCall[] = [];

/** What one call has cost so far, counted without decoding what is relayed. Times are those of the monotonic clock. */
export class Tally {
  #promptTokens = 0;
  #cachedTokens = 0;
  /** Of those who bring no more. */
  #tokens = 0;
  #firstTokens = 0;
  #firstTokenMs: number | undefined;
  #lastTokenMs = 0;
  /** Who may still bring tokens, which are counted on the links. */
  #bringing = nobody;

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

  /** What it brings counts. */
  begin(call: LinkCall): void {
    this.#bringing = [...this.#bringing, call];
  }

  /** What it has brought counts, and what still comes of it does not. */
  end(call: LinkCall, nowMs: number): void {
    if (!this.#remove(call) || call.tokens === 0) return;
    this.#tokens += call.tokens;
    this.#lastTokenMs = call.lastTokenMs(nowMs);
    if (this.#firstTokenMs !== undefined) return;
    this.#firstTokenMs = call.firstTokenMs;
    this.#firstTokens = call.firstTokens;
  }

  /** Nothing of it counts. */
  drop(call: LinkCall): void {
    this.#remove(call);
  }

  /** The answer begins anew. */
  restart(): void {
    this.#bringing = nobody;
    this.#tokens = 0;
    this.#firstTokens = 0;
    this.#firstTokenMs = undefined;
  }

  /** Once. The agent's count is the truth; without it (a lost node) what came is, also what came behind a cancel. */
  result(usage: Usage | undefined, startMs: number, nowMs: number): TallyResult {
    for (const call of this.#bringing) this.end(call, nowMs);
    const first = this.#firstTokenMs;
    const laterTokens = this.#tokens - this.#firstTokens;
    return {
      promptTokens: usage?.promptTokens || this.#promptTokens,
      cachedTokens: usage?.cachedTokens || this.#cachedTokens,
      completionTokens: usage?.completionTokens || this.#tokens,
      ttftMs: first === undefined ? undefined : first - startMs,
      interTokenMs: first !== undefined && laterTokens > 0 ? (this.#lastTokenMs - first) / laterTokens : undefined,
    };
  }

  #remove(call: LinkCall): boolean {
    if (!this.#bringing.includes(call)) return false;
    this.#bringing = this.#bringing.filter((one) => one !== call);
    return true;
  }
}
